"""The model behind mosec: raw pixels in, raw logits out."""

import os

import numpy as np
from mosec import Server, Worker  # type: ignore[import-not-found]
from numpy.typing import NDArray

from loadtests.peers.servers.session import image_of, open_session, run


class Model(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._session = open_session(os.environ["PEER_MODEL"])

    def deserialize(self, data: bytes) -> NDArray[np.uint8]:
        return image_of(data)

    def forward(self, data: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return list(run(self._session, np.stack(data)))

    def serialize(self, data: NDArray[np.float32]) -> bytes:
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=32, max_wait_time=2)
    server.run()
