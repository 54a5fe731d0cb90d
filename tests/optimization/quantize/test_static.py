import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from optimization.quantize.cpu import fastest_types
from optimization.quantize.error import QuantizationError
from optimization.quantize.static import Calibrated, StaticInt8, quantize_static
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
from training.encoding import Array, TensorSpec

FLOAT = network()
EVERY_TYPE = [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")]


@pytest.mark.parametrize("calibrator", ["minmax", "entropy", "percentile"])
@pytest.mark.parametrize(("activations", "weights"), EVERY_TYPE)
def test_logits_stay_near_the_float_graphs(calibrator: Any, activations: Any, weights: Any) -> None:
    choice = StaticInt8(calibrator, activations=activations, weights=weights)
    made = quantize_static(FLOAT, images(), IMAGES, choice)
    want, got = run(FLOAT, images()), run(made, images())
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


@pytest.mark.parametrize(("activations", "weights"), EVERY_TYPE)
def test_types_are_those_chosen(activations: Any, weights: Any) -> None:
    choice = StaticInt8(activations=activations, weights=weights)
    held = constants(quantize_static(FLOAT, images(), IMAGES, choice))
    assert held["w1_quantized"].dtype == weights
    assert held["x1_zero_point"].dtype == activations


def test_left_to_itself_it_takes_the_types_of_this_cpu() -> None:
    assert StaticInt8().activation_type == fastest_types().activations
    assert StaticInt8().reduces_range == fastest_types().reduce_range
    assert not StaticInt8(reduce_range=False).reduces_range
    assert not StaticInt8(activations="int8").reduces_range


def test_weights_have_a_scale_a_channel_or_one() -> None:
    held = constants(quantize_static(FLOAT, images(), IMAGES, StaticInt8()))
    assert held["w1_scale"].shape == (16,)
    held = constants(quantize_static(FLOAT, images(), IMAGES, StaticInt8(per_channel=False)))
    assert held["w1_scale"].shape == ()


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_a_reduced_range_leaves_seven_bits(reduce_range: bool, largest: int) -> None:
    held = constants(quantize_static(FLOAT, images(), IMAGES, StaticInt8(reduce_range=reduce_range)))
    assert np.abs(held["w1_quantized"].astype(int)).max() == largest


def test_symmetric_activations_have_zero_in_the_middle() -> None:
    choice = StaticInt8(activations="int8", symmetric=True)
    held = constants(quantize_static(FLOAT, images(), IMAGES, choice))
    zeros = [value for name, value in held.items() if name.endswith("_zero_point")]
    assert zeros and not any(value.any() for value in zeros)


def test_ranges_are_those_of_onnx_runtimes_own_calibrator(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    calibrated = Calibrated(FLOAT, images(), IMAGES, StaticInt8())
    onnx.save(calibrated.model, tmp_path / "prepared.onnx")
    calibrator = create_calibrator(
        tmp_path / "prepared.onnx",
        list(calibrated.ops),
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
    )
    feeds = iter([{"image": images()}])
    calibrator.collect_data(type("Reader", (), {"get_next": lambda self: next(feeds, None)})())
    theirs = calibrator.compute_data()
    for name, found in calibrated.ranges.items():
        low, high = (float(np.squeeze(value)) for value in theirs[name].range_value)
        assert (found.low, found.high) == pytest.approx((min(low, 0), max(high, 0)), rel=1e-5), name


def test_every_part_is_eight_bits_and_the_logits_are_not() -> None:
    made = onnx.load_from_string(quantize_static(FLOAT, images(), IMAGES))
    made_by = {output: node.op_type for node in made.graph.node for output in node.output}
    for node in made.graph.node:
        if node.op_type in ("Conv", "Gemm", "Add"):
            assert {made_by[name] for name in node.input} == {"DequantizeLinear"}, node.name
    assert made_by["logits"] == "Gemm"
    onnx.checker.check_model(made, full_check=True)


def test_the_runtime_makes_integer_kernels_of_it() -> None:
    from optimization.quantize.onnxruntime_door import optimized

    made = optimized(quantize_static(FLOAT, images(), IMAGES))
    names = [node.op_type for node in made.graph.node]
    assert names.count("QLinearConv") == 3
    assert "QGemm" in names and "QLinearAdd" in names
    assert not {"Conv", "Gemm", "Add", "Relu"} & set(names)


def test_the_batch_stays_dynamic() -> None:
    made = quantize_static(FLOAT, images(), IMAGES)
    whole = run(made, images(33))
    np.testing.assert_allclose(np.concatenate([run(made, images(33)[i : i + 1]) for i in range(33)]), whole, atol=1e-5)


def test_ranges_come_from_the_rows() -> None:
    blind = quantize_static(FLOAT, np.full((8, 3, 8, 8), 3, np.uint8), IMAGES)
    seeing = quantize_static(FLOAT, images(), IMAGES)
    want = run(FLOAT, images())
    assert np.abs(run(blind, images()) - want).mean() > 10 * np.abs(run(seeing, images()) - want).mean()


def test_a_narrow_percentile_clips() -> None:
    narrow = Calibrated(FLOAT, images(), IMAGES, StaticInt8("percentile", percentile=80.0)).ranges
    whole = Calibrated(FLOAT, images(), IMAGES, StaticInt8()).ranges
    assert all(narrow[name].high <= whole[name].high for name in whole)
    assert narrow["x1"].high < 0.7 * whole["x1"].high


def test_operators_and_nodes_stay_in_float_when_told() -> None:
    made = onnx.load_from_string(
        quantize_static(FLOAT, images(), IMAGES, StaticInt8(float_ops=("Add",), float_nodes=("conv0",)))
    )
    held = constants(made.SerializeToString())
    assert "w0" in held and "w1_quantized" in held
    add = next(node for node in made.graph.node if node.op_type == "Add")
    conv = next(node for node in made.graph.node if node.name == "conv0")
    assert list(conv.input)[1:] == ["w0", "b0"]
    assert set(add.output) <= {"sum", "sum_QuantizeLinear_Input"}


@pytest.mark.parametrize("name", ["conv0", "conv1", "residual", "linear"])
def test_the_runtime_leaves_a_float_layer_in_float(name: str) -> None:
    """Left to itself it quantizes what lies between two quantized layers."""
    from optimization.quantize.onnxruntime_door import optimized

    made = optimized(quantize_static(FLOAT, images(), IMAGES, StaticInt8(float_nodes=(name,))))
    run_as = {node.op_type for node in made.graph.node if node.name == name}
    assert run_as <= {"Conv", "Gemm", "FusedConv"} and run_as, run_as


@pytest.mark.parametrize("choice", [StaticInt8(float_ops=("Sofmax",)), StaticInt8(float_nodes=("conv9",))])
def test_what_the_graph_has_not_cannot_stay_in_float(choice: StaticInt8) -> None:
    with pytest.raises(QuantizationError, match="cannot stay in float: the graph has no such"):
        quantize_static(FLOAT, images(), IMAGES, choice)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (images().astype(np.float32), r"float32 \(48, 3, 8, 8\)"),
        (images()[:, :, :7], r"uint8 \(48, 3, 7, 8\)"),
        (images()[0], r"uint8 \(3, 8, 8\)"),
        (images()[:0], r"uint8 \(0, 3, 8, 8\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_their_shape(rows: Array, what: str) -> None:
    with pytest.raises(QuantizationError, match=f"the calibration set is {what}; the graph's input 'image' wants"):
        quantize_static(FLOAT, rows, IMAGES)


def _linear() -> bytes:
    weight = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    return model([helper.make_node("MatMul", ["vector", "w"], ["logits"], "product")], {"w": weight}, VECTORS, 4)


def test_rows_that_are_not_finite_are_counted() -> None:
    rows = vectors()
    rows[3, 2], rows[5, 1] = np.nan, np.inf
    with pytest.raises(QuantizationError, match="2 of 48 calibration rows hold values that are not finite"):
        quantize_static(_linear(), rows, VECTORS)


def test_a_model_that_overflows_on_the_rows_is_refused() -> None:
    rows = vectors()
    rows[0] = 3e38
    with pytest.raises(QuantizationError, match="the tensor logits is not finite on the calibration rows"):
        quantize_static(_linear(), rows, VECTORS)


def test_a_graph_with_nothing_to_quantize_is_refused_by_what_it_is_made_of() -> None:
    nodes = [helper.make_node("Erf", ["vector"], ["e"]), helper.make_node("Tan", ["e"], ["logits"])]
    with pytest.raises(QuantizationError, match=r"nothing of this graph has a static INT8 form here: .*Erf, Tan"):
        quantize_static(model(nodes, {}, VECTORS, 16), vectors(), VECTORS)


def test_a_quantized_graph_is_not_quantized_again() -> None:
    made = quantize_static(FLOAT, images(), IMAGES)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize_static(made, images(), IMAGES)


def test_a_graph_of_another_input_is_refused() -> None:
    spec = TensorSpec("picture", "UINT8", IMAGES.shape)
    with pytest.raises(QuantizationError, match=r"ONNX Runtime cannot quantize this graph: .*picture"):
        quantize_static(FLOAT, images(), spec)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"calibrator": "guess"}, "calibrator is 'guess'"),
        ({"percentile": 0.0}, "percentile is 0.0"),
        ({"percentile": 101.0}, "percentile is 101.0"),
        ({"activations": "int4"}, "types are 'int4'"),
        ({"activations": "int8", "weights": "uint8"}, "unsigned weights with unsigned activations alone"),
    ],
)
def test_choices_that_make_no_sense_are_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(QuantizationError, match=what):
        StaticInt8(**fields)


def test_quantizing_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.root.manager.disable
    quantize_static(FLOAT, images(), IMAGES, StaticInt8("entropy"))
    assert (root.level, list(root.handlers), logging.root.manager.disable) == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_float_graphs_bytes_and_operators_are_untouched() -> None:
    before = bytes(FLOAT)
    calibrated = Calibrated(FLOAT, images(), IMAGES, StaticInt8())
    calibrated.quantized()
    assert before == FLOAT
    assert "QuantizeLinear" not in {node.op_type for node in calibrated.model.graph.node} | operations(FLOAT)
