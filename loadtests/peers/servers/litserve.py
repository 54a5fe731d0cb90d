"""The model behind LitServe: raw pixels in, raw logits out."""

import argparse
from typing import Annotated, Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from fastapi import Depends, Request, Response
from numpy.typing import NDArray

from loadtests.peers.servers.session import image_of, open_session, run


async def read_body(request: Request) -> bytes:
    return await request.body()


class Api(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.002)
        self._path = model

    def setup(self, device: str) -> None:
        self._session = open_session(self._path)

    # LitServe knows JSON and forms; FastAPI's dependency hands it the bytes as they came.
    def decode_request(self, request: Annotated[bytes, Depends(read_body)]) -> NDArray[np.uint8]:
        return image_of(request)

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(inputs)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        return run(self._session, x)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> Any:
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--no-fast-queue", action="store_true")
    arguments = parser.parse_args()
    server = litserve.LitServer(
        Api(arguments.model), accelerator="cpu", workers_per_device=1, fast_queue=not arguments.no_fast_queue
    )
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
