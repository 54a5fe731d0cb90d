"""The names of the backends, for those who only choose one: nothing heavy comes in with them."""

from typing import Literal, get_args

Backend = Literal[
    "torch",
    "torch-cuda",
    "aot-inductor",
    "aot-inductor-cuda",
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "tensorrt",
]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
