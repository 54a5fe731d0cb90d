from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimization.graphs.parts import GraphError
from optimization.graphs.strong_types import check_strongly_typed
from optimization.quantize.static import quantize_static
from tests.optimization.graphs.toy_graphs import FLOAT, HALF, WEIGHT, linear, model, quantized, tensor


def _check(made: onnx.ModelProto, precision: str) -> None:
    check_strongly_typed(made.SerializeToString(), precision)


def _refused(made: onnx.ModelProto, precision: str, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        _check(made, precision)


def test_graphs_that_say_all_their_types_pass() -> None:
    _check(linear(), "fp32")
    _check(linear(kind=HALF), "fp16")
    _check(linear(kind=TensorProto.BFLOAT16), "bf16")
    _check(quantized(), "int8")


def test_an_exported_graph_passes(exported_images: Any) -> None:
    check_strongly_typed(exported_images.variant.artifact.model_path.read_bytes(), "fp32")


@pytest.mark.parametrize(("made", "precision"), [(linear(), "fp16"), (linear(), "int8"), (linear(kind=HALF), "fp32")])
def test_a_precision_that_the_graph_does_not_say_is_refused(made: onnx.ModelProto, precision: str) -> None:
    _refused(made, precision, f"not in {precision}, and TensorRT takes the precision from the graph")


def test_int8_needs_both_halves_of_the_quantizer() -> None:
    _refused(quantized(dequantize_only=True), "int8", "int8 needs QuantizeLinear and DequantizeLinear")


def test_shifted_and_unsigned_zero_points_are_refused() -> None:
    _refused(quantized(zero_point=3), "int8", "the zero points of q, x are not 0: quantize symmetrically")
    _refused(quantized(activation=TensorProto.UINT8), "int8", "q, x are quantized to a type that TensorRT lacks")


def test_integer_biases_are_refused() -> None:
    _refused(quantized(bias=TensorProto.INT32), "int8", "the biases bias are 32-bit integers")


def test_operators_that_tensorrt_lacks_are_refused_by_name() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["logits"], to=FLOAT),
    ]
    made = model(nodes, [tensor("w", np.ones((4, 3), np.int8), TensorProto.INT8)])
    _refused(made, "int8", "TensorRT has no DynamicQuantizeLinear, MatMulInteger")
    fused = helper.make_node("FusedMatMul", ["x", "w"], ["logits"], domain="com.microsoft")
    _refused(model([fused], [tensor("w", WEIGHT)], domains=["com.microsoft"]), "fp32", "com.microsoft:FusedMatMul")


def test_operands_of_two_types_are_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=HALF),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["logits"]),
    ]
    with pytest.raises(GraphError, match=r"MatMul \(logits\) mixes FLOAT and FLOAT16|contradict"):
        _check(model(nodes, [tensor("w", WEIGHT)]), "fp32")


def test_types_that_tensorrt_lacks_are_refused() -> None:
    _refused(linear(kind=TensorProto.DOUBLE), "fp64", "have types that TensorRT lacks")


def test_bytes_are_cast_at_the_input_or_refused() -> None:
    bytes_in = ("x", TensorProto.UINT8, ("batch", 4))
    _check(linear(reads=bytes_in), "fp32")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Cast", ["a"], ["c"], to=FLOAT),
        helper.make_node("MatMul", ["c", "w"], ["logits"]),
    ]
    made = model(nodes, [tensor("shape", [-1, 4], TensorProto.INT64), tensor("w", WEIGHT)], reads=bytes_in)
    _refused(made, "fp32", "the uint8 input is read by Reshape")


@pytest.mark.slow
def test_what_is_quantized_for_a_cpu_is_refused_with_each_reason(exported_images: Any) -> None:
    content = exported_images.variant.artifact.model_path.read_bytes()
    rows, spec = exported_images.task.splits["calibration"].inputs, exported_images.task.encoding.input_spec
    with pytest.raises(GraphError) as told:
        check_strongly_typed(quantize_static(content, rows, spec), "int8")
    for reason in ("zero points", "biases"):
        assert reason in str(told.value)
