import dataclasses
import importlib.util
import json
from typing import Any

import pytest

from optimization.quantize.aware_settings import QuantizationAware
from optimization.quantize.choice import NoQuantization, PostTraining, from_json, precision_of, quantize, to_json
from optimization.quantize.dynamic import DynamicInt8
from optimization.quantize.error import QuantizationError
from optimization.quantize.low_precision import LowPrecision
from optimization.quantize.mixed import MixedPrecision
from optimization.quantize.modelopt_door import TensorRtQuantization
from optimization.quantize.static import StaticInt8
from optimization.quantize.weight_only import WeightOnly
from tests.optimization.quantize.graphs import IMAGES, images, network, operations

CHOICES: list[tuple[PostTraining, str]] = [
    (NoQuantization(), "fp32"),
    (StaticInt8("percentile", percentile=99.0, float_ops=("Add",)), "int8"),
    (DynamicInt8(ops=("MatMul",)), "int8"),
    (MixedPrecision(StaticInt8("entropy", float_nodes=("conv0",)), keep=1), "int8"),
    (LowPrecision("bf16"), "bf16"),
    (WeightOnly(), "int4"),
    (WeightOnly(8), "int8"),
    (TensorRtQuantization("fp8"), "fp8"),
]


@pytest.mark.parametrize(("choice", "precision"), CHOICES)
def test_a_choice_goes_through_json_unchanged(choice: PostTraining, precision: str) -> None:
    assert from_json(json.loads(json.dumps(to_json(choice)))) == choice
    assert precision_of(choice) == precision


def test_a_training_for_int8_goes_through_json_unchanged() -> None:
    choice = QuantizationAware(StaticInt8("percentile", percentile=99.0), "fixed", "distil", epochs=2)
    assert to_json(choice)["kind"] == "aware_int8"
    assert from_json(json.loads(json.dumps(to_json(choice)))) == choice


@pytest.mark.parametrize("choice", [choice for choice, _ in CHOICES])
def test_a_choice_cannot_be_changed(choice: PostTraining) -> None:
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
        choice.kind = "other"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"kind": "magic"}, "kind 'magic' is not one of none, static_int8"),
        ({}, "kind None is not one of"),
        ({"kind": "static_int8", "bits": 3}, "static_int8 has no bits; it has calibrator"),
        ({"kind": "none", "x": 1}, "none has no x; it has no fields"),
        ({"kind": "static_int8", "percentile": None}, "static_int8 with"),
        ({"kind": "mixed", "static": {"colour": 1}}, "static_int8 has no colour"),
        ({"kind": "aware_int8", "static": {"colour": 1}}, "static_int8 has no colour"),
        ({"kind": "aware_int8", "epochs": 0}, "epochs is 0"),
        ({"kind": "aware_int8", "static": "entropy"}, "static of aware_int8 is 'entropy': give the fields"),
    ],
)
def test_data_that_is_no_choice_is_refused(data: dict[str, Any], what: str) -> None:
    with pytest.raises(QuantizationError, match=what):
        from_json(data)


def test_no_quantization_gives_the_graph_as_it_is() -> None:
    assert quantize(network(), NoQuantization(), images(), IMAGES) is not None
    assert quantize(network(), NoQuantization(), images(), IMAGES) == network()


@pytest.mark.parametrize(
    ("choice", "operation"),
    [
        (StaticInt8(), "QuantizeLinear"),
        (DynamicInt8(), "MatMulInteger"),
        (MixedPrecision(keep=1), "QuantizeLinear"),
        (LowPrecision(), "Cast"),
        (WeightOnly(min_values=16), "MatMulNBits"),
    ],
)
def test_a_choice_is_carried_out_by_its_pass(choice: PostTraining, operation: str) -> None:
    assert operation in operations(quantize(network(), choice, images(), IMAGES))


@pytest.mark.skipif(importlib.util.find_spec("modelopt") is not None, reason="ModelOpt is installed")
def test_tensorrt_without_modelopt_is_refused_with_what_to_install() -> None:
    with pytest.raises(QuantizationError, match=r"makes fp8 for TensorRT, is missing: pip install nvidia-modelopt"):
        quantize(network(), TensorRtQuantization("fp8"), images(), IMAGES)


def test_tensorrt_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(QuantizationError, match="format is 'int3'"):
        TensorRtQuantization("int3")  # type: ignore[arg-type]
