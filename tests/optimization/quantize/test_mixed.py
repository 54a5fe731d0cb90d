"""Sensitivities of layers, and mixed precision by them."""

from typing import Any

import numpy as np
import onnx
import pytest

from optimization.quantize.error import QuantizationError
from optimization.quantize.mixed import MixedPrecision, quantize_mixed
from optimization.quantize.sensitivity import ErrorMeter, layers, logit_error, sensitivities, worst_first
from optimization.quantize.sensitivity_plot import sensitivity_plot
from optimization.quantize.static import Calibrated, StaticInt8
from tests.optimization.quantize.graphs import IMAGES, constants, images, network, run

NAMES = ["conv0", "conv1", "residual", "linear"]


def _with_a_bad_layer() -> bytes:
    """One channel of the second convolution has weights so large that a scale for all channels leaves the others
    nothing; its bias keeps it below the ReLU, so that no activation tells of it.
    """
    made = onnx.load_from_string(network())
    for tensor in made.graph.initializer:
        if tensor.name in ("w1", "b1"):
            held = onnx.numpy_helper.to_array(tensor).copy()
            held[0] = 200 * held[0] if tensor.name == "w1" else -5000
            tensor.CopyFrom(onnx.numpy_helper.from_array(held, tensor.name))
    content: bytes = made.SerializeToString()
    return content


BAD = _with_a_bad_layer()
PER_TENSOR = StaticInt8(per_channel=False)


def test_a_layer_is_a_weighted_node_and_what_follows_it() -> None:
    found = layers(Calibrated(network(), images(), IMAGES, StaticInt8()))
    assert [layer.name for layer in found] == NAMES
    assert [layer.weight for layer in found] == ["w0", "w1", "wr", "head"]
    assert found[0].nodes == ("conv0", "relu0")
    assert found[2].nodes[:2] == ("residual", "add")


def test_errors_are_those_of_the_logits() -> None:
    want, got = np.float64([[0.0, 0.0], [1.0, 0.0]]), np.float64([[0.0, 1.0], [1.0, 0.0]])
    assert logit_error(want, got, "mse") == pytest.approx(0.25)
    p = np.exp(1) / (1 + np.exp(1))
    divergence = 0.5 * np.log(0.5 / (1 - p)) + 0.5 * np.log(0.5 / p)
    assert logit_error(want, got, "kl") == pytest.approx(divergence / 2)
    assert logit_error(want, want + 7, "kl") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("probe", ["only", "all_but"])
@pytest.mark.parametrize("metric", ["kl", "mse"])
def test_the_layer_that_suffers_most_is_found(probe: Any, metric: Any) -> None:
    calibrated = Calibrated(BAD, images(), IMAGES, PER_TENSOR)
    found = sensitivities(calibrated, ErrorMeter(BAD, images(), IMAGES, metric), probe)
    assert [one.layer.name for one in found] == NAMES
    assert worst_first(found, probe)[0].name == "conv1"


def test_alone_and_all_but_are_what_they_say() -> None:
    calibrated = Calibrated(network(), images(), IMAGES, StaticInt8())
    meter = ErrorMeter(network(), images(), IMAGES, "mse")
    alone = {one.layer.name: one.error for one in sensitivities(calibrated, meter, "only")}
    others = [name for layer in layers(calibrated) if layer.name != "conv1" for name in layer.nodes]
    made = calibrated.quantized(others).SerializeToString()
    assert alone["conv1"] == pytest.approx(
        float(((run(made, images()) - run(network(), images())) ** 2).mean()), rel=1e-4
    )
    held = constants(made)
    assert "w1_quantized" in held and {"w0", "wr", "head"} <= held.keys()
    all_but = {one.layer.name: one.error for one in sensitivities(calibrated, meter, "all_but")}
    left = next(layer for layer in layers(calibrated) if layer.name == "conv1").nodes
    assert "w1" in constants(calibrated.quantized(left).SerializeToString())
    assert all_but["conv1"] == meter(calibrated.quantized(left))


def test_the_worst_layers_stay_in_float() -> None:
    mixed = quantize_mixed(BAD, images(), IMAGES, MixedPrecision(PER_TENSOR, keep=1))
    assert [layer.name for layer in mixed.kept] == ["conv1"]
    held = constants(mixed.content)
    assert "w1" in held and {"w0_quantized", "wr_quantized", "head_quantized"} <= held.keys()
    assert mixed.error < 0.2 * mixed.all_int8_error
    assert len(mixed.sensitivities) == 4


def test_none_kept_is_all_in_int8() -> None:
    mixed = quantize_mixed(BAD, images(), IMAGES, MixedPrecision(PER_TENSOR, keep=0))
    assert mixed.kept == () and mixed.error == mixed.all_int8_error
    assert "w1_quantized" in constants(mixed.content)


def test_as_few_stay_in_float_as_the_budget_asks_for() -> None:
    loose = quantize_mixed(BAD, images(), IMAGES, MixedPrecision(PER_TENSOR, max_error=1e9))
    assert loose.kept == ()
    middle = quantize_mixed(BAD, images(), IMAGES, MixedPrecision(PER_TENSOR, max_error=0.5 * loose.all_int8_error))
    assert [layer.name for layer in middle.kept] == ["conv1"]
    assert middle.error <= 0.5 * loose.all_int8_error


def test_a_budget_that_nothing_meets_is_refused() -> None:
    with pytest.raises(QuantizationError, match="max_error is 0, and with 3 of 4 layers in float it still is"):
        quantize_mixed(BAD, images(), IMAGES, MixedPrecision(PER_TENSOR, max_error=0.0))


def test_to_keep_every_layer_is_refused() -> None:
    with pytest.raises(QuantizationError, match="keep is 4 of 4 layers, so none would be INT8"):
        quantize_mixed(BAD, images(), IMAGES, MixedPrecision(keep=4))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"keep": -1}, "keep is -1"),
        ({"rows": 0}, "rows is 0"),
        ({"max_error": -0.1}, "max_error is -0.1"),
        ({"max_error": float("nan")}, "max_error is nan"),
        ({"metric": "l1"}, "metric is 'l1'"),
        ({"probe": "none"}, "probe is 'none'"),
    ],
)
def test_choices_that_make_no_sense_are_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(QuantizationError, match=what):
        MixedPrecision(**fields)


def test_the_plot_has_a_bar_a_layer_and_marks_those_kept() -> None:
    mixed = quantize_mixed(BAD, images(), IMAGES, MixedPrecision(PER_TENSOR, keep=1))
    figure = sensitivity_plot(mixed.sensitivities, mixed.kept, mixed.all_int8_error, "kl", "only")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["w0", "w1", "wr", "head"]
    bars = axes.patches[:4]
    assert [bar.get_width() for bar in bars] == [one.error for one in mixed.sensitivities]
    assert len({bar.get_facecolor() for bar in bars}) == 2
    told = {text.get_text() for text in figure.legends[0].get_texts()}
    assert told == {"3 in INT8", "1 kept in float", "all in INT8"}
    with pytest.raises(ValueError, match="no layers"):
        sensitivity_plot([], [], 0.0, "kl", "only")
