"""Small ONNX graphs for tests: a batch [B, 4] of floats or bytes -> logits [B, 3]."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from training.encoding import Array, TensorSpec

INPUT = TensorSpec("x", "FP32", (-1, 4))
BYTES = TensorSpec("x", "UINT8", (-1, 4))
OUTPUT = TensorSpec("logits", "FP32", (-1, 3))
FLOAT, HALF, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def tensor(name: str, values: Array | float | int, kind: int = FLOAT) -> onnx.TensorProto:
    array = np.asarray(values)
    return helper.make_tensor(name, kind, array.shape, array.ravel().tolist())


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 18,
    reads: tuple[str, int, Sequence[int | str]] = ("x", FLOAT, ("batch", 4)),
    answers: tuple[str, int, Sequence[int | str]] = ("logits", FLOAT, ("batch", 3)),
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "toy", [helper.make_tensor_value_info(*reads)], [helper.make_tensor_value_info(*answers)], weights
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


def linear(weight: Array = WEIGHT, kind: int = FLOAT, **changes: object) -> onnx.ModelProto:
    """x -> (cast) -> MatMul with `weight` stored as `kind` -> (cast) -> logits."""
    product = helper.make_node("MatMul", ["a", "w"], ["b"])
    cast_in = helper.make_node("Cast", ["x"], ["a"], to=kind)
    cast_out = helper.make_node("Cast", ["b"], ["logits"], to=FLOAT)
    return model([cast_in, product, cast_out], [tensor("w", weight, kind)], **changes)


def quantized(
    *, zero_point: int = 0, activation: int = INT8, bias: int | None = None, dequantize_only: bool = False
) -> onnx.ModelProto:
    """A Q/DQ linear layer: both operands of the product go through QuantizeLinear and DequantizeLinear."""
    weights = [
        tensor("scale", 0.1),
        tensor("zero", zero_point, activation),
        tensor("w", np.ones((4, 3), np.int8), INT8),
        tensor("w_zero", 0, INT8),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "w_zero"], ["w_float"]),
        helper.make_node("MatMul", ["x" if dequantize_only else "a", "w_float"], ["logits" if bias is None else "b"]),
    ]
    if not dequantize_only:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
            *nodes,
        ]
    if bias is not None:
        weights.append(tensor("bias", np.ones(3, np.int32), bias))
        nodes += [
            helper.make_node("DequantizeLinear", ["bias", "scale"], ["bias_float"]),
            helper.make_node("Add", ["b", "bias_float"], ["logits"]),
        ]
    return model(nodes, weights)
