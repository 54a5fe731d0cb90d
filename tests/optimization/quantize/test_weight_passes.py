"""Dynamic INT8 and weight-only quantization, and what they leave in float."""

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from optimization.quantize.cpu import fastest_types
from optimization.quantize.dynamic import DynamicInt8, quantize_dynamic
from optimization.quantize.error import QuantizationError
from optimization.quantize.leftover import float_weights
from optimization.quantize.weight_only import WeightOnly, quantize_weights
from tests.optimization.quantize.graphs import (
    IMAGES,
    VECTORS,
    constants,
    images,
    model,
    network,
    operations,
    run,
    vectors,
)


def _matrices(hidden: int = 256) -> bytes:
    """A MatMul, a Gemm with its matrix turned, and a small Gemm."""
    random = np.random.default_rng(0)
    held = {
        "first": random.normal(size=(16, hidden)) / 4,
        "second": random.normal(size=(hidden, hidden)) / np.sqrt(hidden),
        "b": random.normal(size=hidden),
        "third": random.normal(size=(hidden, 4)) / np.sqrt(hidden),
        "c": random.normal(size=4),
    }
    nodes = [
        helper.make_node("MatMul", ["vector", "first"], ["x"], "product"),
        helper.make_node("Relu", ["x"], ["y"], "relu"),
        helper.make_node("Gemm", ["y", "second", "b"], ["z"], "turned", transB=1),
        helper.make_node("Gemm", ["z", "third", "c"], ["logits"], "head"),
    ]
    return model(nodes, held, VECTORS, 4)


def _recurrent(operation: str, gates: int) -> bytes:
    """A recurrence over one step, since what it reads is [1, rows, 16]."""
    random = np.random.default_rng(0)
    held = {
        "axes": np.int64([0]),
        "w": random.normal(size=(1, gates * 32, 16)) / 4,
        "r": random.normal(size=(1, gates * 32, 32)) / 6,
        "head": random.normal(size=(32, 4)),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["vector", "axes"], ["step"], "unsqueeze"),
        helper.make_node(operation, ["step", "w", "r"], ["", "h"], "recurrence", hidden_size=32),
        helper.make_node("Squeeze", ["h", "axes"], ["state"], "squeeze"),
        helper.make_node("MatMul", ["state", "head"], ["logits"], "product"),
    ]
    return model(nodes, held, VECTORS, 4)


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_matrices_are_int8_and_their_answers_near(per_channel: bool) -> None:
    content = _matrices()
    made = quantize_dynamic(content, DynamicInt8(per_channel=per_channel))
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= operations(made)
    assert len(made) < 0.35 * len(content)
    want, got = run(content, vectors()), run(made, vectors())
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_dynamic_lstms_are_int8_and_their_answers_near() -> None:
    content = _recurrent("LSTM", 4)
    made = quantize_dynamic(content)
    assert "DynamicQuantizeLSTM" in operations(made)
    assert not float_weights(made)
    np.testing.assert_allclose(run(made, vectors()), run(content, vectors()), atol=0.1)


def test_dynamic_embeddings_are_eight_bits() -> None:
    held = {"words": np.random.default_rng(0).normal(size=(100, 16)), "axis": np.int64([1])}
    nodes = [
        helper.make_node("Cast", ["image"], ["tokens"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["words", "tokens"], ["found"], "lookup"),
        helper.make_node("ReduceMean", ["found", "axis"], ["logits"], "mean", keepdims=0),
    ]
    spec = type(IMAGES)("image", "UINT8", (-1, 8))
    content = model(nodes, held, spec, 16)
    made = quantize_dynamic(content)
    assert not float_weights(made)
    assert constants(made)["words_quantized"].dtype.itemsize == 1
    tokens = np.random.default_rng(1).integers(0, 100, (5, 8)).astype(np.uint8)
    np.testing.assert_allclose(run(made, tokens), run(content, tokens), atol=0.03)


def test_dynamic_leaves_a_gru_in_float_and_says_so() -> None:
    made = quantize_dynamic(_recurrent("GRU", 3))
    assert {(weight.name, weight.operation) for weight in float_weights(made)} == {("w", "GRU"), ("r", "GRU")}
    assert "MatMulInteger" in operations(made)


def test_dynamic_leaves_convolutions_in_float() -> None:
    made = quantize_dynamic(network())
    assert {weight.operation for weight in float_weights(made)} == {"Conv"}
    want = run(network(), images())
    assert np.abs(run(made, images()) - want).max() < 0.1 * np.abs(want).max()


def test_dynamic_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(QuantizationError, match=r"nothing of this graph has a dynamic INT8 form here: .*Gemm"):
        quantize_dynamic(network(), DynamicInt8(ops=("LSTM",)))


@pytest.mark.parametrize("ops", [(), ("Conv",), ("MatMul", "GRU")])
def test_dynamic_knows_which_operators_it_has(ops: tuple[str, ...]) -> None:
    with pytest.raises(QuantizationError, match="a dynamic INT8 form have MatMul, LSTM"):
        DynamicInt8(ops=ops)


def test_dynamic_nodes_stay_in_float_when_told() -> None:
    made = quantize_dynamic(_matrices(), DynamicInt8(float_nodes=("product",)))
    assert ("first", "MatMul") in {(weight.name, weight.operation) for weight in float_weights(made)}
    assert DynamicInt8().reduces_range == fastest_types().reduce_range


@pytest.mark.parametrize(("bits", "share", "error"), [(4, 0.2, 0.35), (8, 0.33, 0.03)])
def test_weight_only_matrices_shrink_by_their_bits(bits: int, share: float, error: float) -> None:
    content = _matrices()
    made = quantize_weights(content, WeightOnly(bits))
    kept = {weight.name for weight in float_weights(made)}
    assert not any(name.startswith("second") for name in kept)
    assert "first" in kept  # 4,096 weights
    size = constants(content)["second"].nbytes
    assert len(made) - (len(content) - size) < share * size
    want, got = run(content, vectors()), run(made, vectors())
    assert 0 < np.abs(got - want).mean() < error * np.abs(want).mean()


def test_weight_only_with_small_matrices_alone_is_refused() -> None:
    with pytest.raises(QuantizationError, match="nothing of this graph has matrices of 65536 weights and more"):
        quantize_weights(_matrices(hidden=128))


@pytest.mark.parametrize("fields", [{"bits": 3}, {"block_size": 7}, {"min_values": 0}])
def test_weight_only_choices_that_make_no_sense_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(QuantizationError, match=f"{next(iter(fields))} is {next(iter(fields.values()))}"):
        WeightOnly(**fields)


@pytest.mark.parametrize("quantize", [quantize_dynamic, quantize_weights])
def test_the_tools_speak_to_nobody(quantize: Any, capfd: Any) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    quantize(_matrices())
    assert (root.level, list(root.handlers)) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("quantize", [quantize_dynamic, quantize_weights])
def test_a_graph_that_is_not_fit_is_refused(quantize: Any) -> None:
    with pytest.raises(QuantizationError, match="are no ONNX model"):
        quantize(b"no graph")
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize(quantize(_matrices()))
