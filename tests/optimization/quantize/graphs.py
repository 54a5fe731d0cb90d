"""Small ONNX graphs, made without PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optimization.runners.onnx_runtime import onnx_session
from training.encoding import Array, TensorSpec

IMAGES = TensorSpec("image", "UINT8", (-1, 3, 8, 8))
VECTORS = TensorSpec("vector", "FP32", (-1, 16))
OPSET = 20


def network(seed: int = 0, widths: Sequence[int] = (8, 16), classes: int = 4) -> bytes:
    """uint8 images -> convolutions with ReLU, a residual addition, the mean, a linear layer -> logits."""
    random = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "scale"], ["x0"], "scaled"),
    ]
    constants = {"scale": np.float32(64)}
    channels = 3
    for i, width in enumerate(widths):
        constants[f"w{i}"] = random.normal(size=(width, channels, 3, 3)).astype(np.float32) / np.sqrt(9 * channels)
        constants[f"b{i}"] = random.normal(size=width).astype(np.float32) / 10
        nodes += [
            helper.make_node("Conv", [f"x{i}", f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"], f"relu{i}"),
        ]
        channels = width
    last = f"x{len(widths)}"
    constants["wr"] = random.normal(size=(channels, channels, 1, 1)).astype(np.float32) / np.sqrt(channels)
    constants["head"] = random.normal(size=(channels, classes)).astype(np.float32)
    constants["offset"] = random.normal(size=classes).astype(np.float32)
    nodes += [
        helper.make_node("Conv", [last, "wr"], ["r"], "residual"),
        helper.make_node("Add", ["r", last], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "head", "offset"], ["logits"], "linear"),
    ]
    return model(nodes, constants, IMAGES, classes)


def model(nodes: Sequence[Any], constants: dict[str, Any], spec: TensorSpec, classes: int, opset: int = OPSET) -> bytes:
    kind = TensorProto.UINT8 if spec.datatype == "UINT8" else TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info(spec.name, kind, ["rows", *spec.shape[1:]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", classes])],
        [numpy_helper.from_array(_narrow(np.asarray(value)), name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
    return made


def images(rows: int = 48, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (rows, 3, 8, 8)).astype(np.uint8)


def vectors(rows: int = 48, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)


def run(content: bytes, inputs: Array) -> Array:
    session = onnx_session(content)
    logits: Array = session.run(["logits"], {session.get_inputs()[0].name: inputs})[0]
    return logits


def operations(content: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(content).graph.node}


def constants(content: bytes) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer}


def _narrow(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float64 else array
