"""The model behind Triton Inference Server's Python backend, by pytriton."""

import argparse

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch  # type: ignore[import-not-found]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found]

from loadtests.peers.servers.session import SHAPE_CHW, open_session, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    session = open_session(arguments.model)

    @batch  # type: ignore[untyped-decorator]
    def infer(image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return {"logits": run(session, image)}

    port = arguments.port
    addresses = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_address="127.0.0.1",
        grpc_port=port + 1,
        metrics_address="127.0.0.1",
        metrics_port=port + 2,
        allow_metrics=False,
    )
    with Triton(config=addresses) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=np.uint8, shape=SHAPE_CHW)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
