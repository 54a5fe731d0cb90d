"""The model that every server of the comparison serves: one small CNN as ONNX, the same bytes on every machine.

Untrained: a server's speed does not depend on what the weights have learned. Scaling is inside the graph, so that all
servers receive the same uint8 pixels. Shape suffixes: B batch, C channels, H height, W width, O outputs, I inputs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUT, OUTPUT = "image", "logits"
SHAPE_CHW = (3, 32, 32)
CLASSES = 10
IMAGE_BYTES = 3 * 32 * 32
_SEED = 7


@dataclass(frozen=True)
class _Convolution:
    inputs: int
    outputs: int
    stride: int


# 4.0 million multiply-adds an image: about 10,000 images/s on one thread of a server CPU of 2023.
_CONVOLUTIONS = (_Convolution(3, 16, 1), _Convolution(16, 32, 2), _Convolution(32, 24, 1), _Convolution(24, 48, 2))


def write_model(path: Path) -> Path:
    """Write the ONNX file: uint8 image [B, 3, 32, 32] to float32 logits [B, 10]."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(_SEED)
    constants: dict[str, NDArray[Any]] = {
        "mean": np.array([125.3, 123.0, 113.9], np.float32).reshape(1, 3, 1, 1),
        "spread": np.array([63.0, 62.1, 66.7], np.float32).reshape(1, 3, 1, 1),
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["features"]),
    ]
    last = "features"
    for number, convolution in enumerate(_CONVOLUTIONS):
        weight, bias, summed, active = (f"{name}{number}" for name in ("weight", "bias", "summed", "active"))
        fan_in = 9 * convolution.inputs
        shape_OIHW = (convolution.outputs, convolution.inputs, 3, 3)
        constants[weight] = (random.standard_normal(shape_OIHW) * np.sqrt(2 / fan_in)).astype(np.float32)
        constants[bias] = (0.1 * random.standard_normal(convolution.outputs)).astype(np.float32)
        strides = [convolution.stride, convolution.stride]
        nodes += [
            helper.make_node("Conv", [last, weight, bias], [summed], pads=[1, 1, 1, 1], strides=strides),
            helper.make_node("Relu", [summed], [active]),
        ]
        last = active
    width = _CONVOLUTIONS[-1].outputs
    head = random.standard_normal((width, CLASSES))
    # Features are positive, so columns that sum to nothing keep one class from winning everywhere.
    constants["head"] = (head - head.mean(axis=0)).astype(np.float32)
    constants["head_bias"] = np.zeros(CLASSES, np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "head_bias"], [OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        "small_cnn",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", *SHAPE_CHW])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # Versions that the oldest ONNX Runtime of the compared servers reads.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.SerializeToString())
    return path


def sample_images(count: int) -> NDArray[np.uint8]:
    """Images [B, 3, 32, 32] that the model tells apart: a colour each, with waves and noise over it."""
    random = np.random.default_rng(_SEED + 1)
    rows, columns = np.mgrid[0:32, 0:32] / 32
    colour = random.uniform(0, 255, (count, 3, 1, 1))
    frequency = random.uniform(0.5, 6, (count, 1, 1, 1))
    angle = random.uniform(0, np.pi, (count, 1, 1, 1))
    waves = 60 * np.sin(2 * np.pi * frequency * (np.cos(angle) * rows + np.sin(angle) * columns))
    noise = random.normal(0, 20, (count, *SHAPE_CHW))
    images: NDArray[np.uint8] = np.clip(colour + waves + noise, 0, 255).astype(np.uint8)
    return images
