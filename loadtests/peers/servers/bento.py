"""The model behind BentoML: JSON with base64 pixels and logits, the smallest that it takes in batches."""

import base64
import os

import bentoml  # type: ignore[import-not-found]
import numpy as np

from loadtests.peers.servers.session import image_of, open_session, run


@bentoml.service(
    workers=1,
    threads=1,
    traffic={"timeout": 10, "max_concurrency": 1024},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Classifier:
    def __init__(self) -> None:
        self._session = open_session(os.environ["PEER_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000, route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, images: list[str]) -> list[str]:
        images_BCHW = np.stack([image_of(base64.b64decode(image)) for image in images])
        return [base64.b64encode(row.tobytes()).decode() for row in run(self._session, images_BCHW)]
