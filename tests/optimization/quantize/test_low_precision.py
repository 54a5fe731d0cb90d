import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimization.quantize.error import QuantizationError
from optimization.quantize.low_precision import LowPrecision, cpu_support, lower_precision
from tests.optimization.quantize.graphs import VECTORS, images, model, network, operations, run

FLOAT = network()
ELSEWHERE = LowPrecision("bf16", must_run_here=False)


def _types(content: bytes) -> tuple[int, int]:
    graph = onnx.load_from_string(content).graph
    return graph.input[0].type.tensor_type.elem_type, graph.output[0].type.tensor_type.elem_type


def _weights(content: bytes) -> set[int]:
    return {t.data_type for t in onnx.load_from_string(content).graph.initializer if len(t.dims) > 1}


def test_fp16_halves_the_weights_and_keeps_edges_and_answers() -> None:
    made = lower_precision(FLOAT)
    assert _weights(made) == {TensorProto.FLOAT16}
    assert _types(made) == (TensorProto.UINT8, TensorProto.FLOAT)
    want, got = run(FLOAT, images()), run(made, images())
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).max() < 5e-3 * np.abs(want).max()


def test_fp16_leaves_operators_in_float32_when_told() -> None:
    made = onnx.load_from_string(lower_precision(FLOAT, LowPrecision(float_ops=("Gemm",))))
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert kinds["head"] == TensorProto.FLOAT
    assert kinds["w1"] == TensorProto.FLOAT16


def test_a_float_input_keeps_its_type() -> None:
    nodes = [helper.make_node("MatMul", ["vector", "w"], ["logits"], "product")]
    content = model(nodes, {"w": np.eye(16)}, VECTORS, 16)
    for choice in (LowPrecision(), ELSEWHERE):
        assert _types(lower_precision(content, choice)) == (TensorProto.FLOAT, TensorProto.FLOAT)


def test_bf16_is_a_sound_graph_of_bf16_weights() -> None:
    made = lower_precision(FLOAT, ELSEWHERE)
    assert _weights(made) == {TensorProto.BFLOAT16}
    assert _types(made) == (TensorProto.UINT8, TensorProto.FLOAT)
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    assert {"Conv", "Gemm"} <= operations(made)


def test_bf16_answers_as_float_does_but_for_rounding() -> None:
    """By ONNX's own evaluator, since ONNX Runtime has no bf16 on CPUs."""
    from onnx.reference import ReferenceEvaluator

    made = onnx.load_from_string(lower_precision(FLOAT, ELSEWHERE))
    got = ReferenceEvaluator(made).run(None, {"image": images(4)})[0]
    want = run(FLOAT, images(4))
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_bf16_is_refused_where_this_cpu_cannot_run_it() -> None:
    support = cpu_support(lower_precision(FLOAT, ELSEWHERE))
    if support.runs:
        pytest.skip("this CPU's ONNX Runtime runs bf16")
    with pytest.raises(QuantizationError, match=r"this CPU cannot run the bf16 graph: .*choose fp16 or INT8, or set"):
        lower_precision(FLOAT, LowPrecision("bf16"))


def test_support_says_whether_the_cpu_computes_in_what_it_stores() -> None:
    assert cpu_support(FLOAT).native
    fp16 = cpu_support(lower_precision(FLOAT))
    assert fp16.runs
    assert fp16.native == (fp16.reason == "")
    assert fp16.native or "casts to and from float32" in fp16.reason


def test_weights_beyond_fp16_are_named_with_their_size() -> None:
    nodes = [helper.make_node("MatMul", ["vector", "w"], ["logits"], "product")]
    content = model(nodes, {"w": np.full((16, 4), 7e4)}, VECTORS, 4)
    with pytest.raises(QuantizationError, match=r"exceeded by w \(7e\+04\): choose bf16"):
        lower_precision(content)
    lower_precision(content, ELSEWHERE)


def test_an_operator_without_bf16_is_refused() -> None:
    nodes = [helper.make_node("TopK", ["vector", "count"], ["logits", "places"], "best")]
    content = model(nodes, {"count": np.int64([4])}, VECTORS, 4)
    with pytest.raises(QuantizationError, match=r"no bf16 form of TopK: choose fp16"):
        lower_precision(content, ELSEWHERE)


def test_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(QuantizationError, match="format is 'fp4'"):
        LowPrecision("fp4")  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match="bf16 throughout"):
        LowPrecision("bf16", float_ops=("Gemm",))


def test_a_graph_that_is_not_fit_is_refused() -> None:
    with pytest.raises(QuantizationError, match="are no ONNX model"):
        lower_precision(b"no graph")
