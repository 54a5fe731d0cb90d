"""The one way in which every server of the comparison opens and calls the model, so that only the servers differ."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPE_CHW = (3, 32, 32)


def open_session(model: str) -> Any:
    """An ONNX Runtime session on one thread that does not spin while it waits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for rows in (1, 2, 8, 32):
        run(session, np.zeros((rows, *SHAPE_CHW), np.uint8))
    return session


def run(session: Any, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [B, 10]."""
    logits: NDArray[np.float32] = session.run(None, {"image": images_BCHW})[0]
    return logits


def image_of(body: bytes) -> NDArray[np.uint8]:
    """One image [3, 32, 32] of a raw request; raises ValueError on any other size."""
    return np.frombuffer(body, np.uint8).reshape(SHAPE_CHW)
