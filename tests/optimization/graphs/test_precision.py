from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimization.graphs.precision import float_precision_of, precision_of
from optimization.quantize.dynamic import quantize_dynamic
from optimization.quantize.static import quantize_static
from tests.optimization.graphs.toy_graphs import FLOAT, HALF, WEIGHT, linear, model, quantized, tensor

NAMES = {FLOAT: "fp32", HALF: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "fp64"}


@pytest.mark.parametrize("kind", NAMES)
def test_a_float_graph_has_the_precision_of_its_weights(kind: int) -> None:
    assert precision_of(linear(kind=kind)) == float_precision_of(linear(kind=kind)) == NAMES[kind]


def test_the_format_with_most_bytes_counts() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=HALF),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=FLOAT),
        helper.make_node("Add", ["c", "bias"], ["logits"]),
    ]
    assert precision_of(model(nodes, [tensor("w", WEIGHT, HALF), tensor("bias", 1.0)])) == "fp16"
    large = tensor("bias", np.ones((100, 3)))
    assert precision_of(model(nodes, [tensor("w", WEIGHT, HALF), large])) == "fp32"


def test_a_graph_without_weights_is_fp32() -> None:
    assert precision_of(model([helper.make_node("Relu", ["x"], ["logits"])])) == "fp32"


def test_a_graph_that_quantizes_is_int8_and_remembers_its_floats() -> None:
    assert precision_of(quantized()) == precision_of(quantized(dequantize_only=True)) == "int8"
    assert float_precision_of(quantized()) == "fp32"


@pytest.mark.parametrize("operator", ["MatMulInteger", "QLinearMatMul", "ConvInteger", "DynamicQuantizeLSTM"])
def test_integer_operators_are_int8(operator: str) -> None:
    made = model([helper.make_node(operator, ["x"], ["logits"])], [tensor("w", WEIGHT)])
    assert precision_of(made) == "int8"


def test_formats_of_four_bits_and_of_floats_of_eight_are_told_apart() -> None:
    def stored(kind: int) -> onnx.ModelProto:
        nodes = [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["v"]),
            helper.make_node("MatMul", ["x", "v"], ["logits"]),
        ]
        return model(nodes, [tensor("w", np.ones((4, 3)), kind), tensor("scale", 0.1)])

    assert precision_of(stored(TensorProto.FLOAT8E4M3FN)) == "fp8"
    assert precision_of(stored(TensorProto.INT4)) == "int4"


@pytest.mark.parametrize(("bits", "precision"), [({}, "int4"), ({"bits": 4}, "int4"), ({"bits": 8}, "int8")])
def test_weights_in_blocks_have_the_bits_that_they_say(bits: dict[str, int], precision: str) -> None:
    packed = helper.make_node("MatMulNBits", ["x", "w"], ["logits"], domain="com.microsoft", **bits)
    assert precision_of(model([packed], [tensor("w", WEIGHT)])) == precision


@pytest.mark.slow
def test_what_the_quantizer_makes_is_int8(exported_images: Any, exported_texts: Any) -> None:
    images, texts = (
        exported.variant.artifact.model_path.read_bytes() for exported in (exported_images, exported_texts)
    )
    rows = exported_images.task.splits["calibration"].inputs
    made = (quantize_static(images, rows, exported_images.task.encoding.input_spec), quantize_dynamic(texts))
    assert [precision_of(onnx.load_from_string(content)) for content in (images, texts, *made)] == [
        *("fp32", "fp32"),
        *("int8", "int8"),
    ]
