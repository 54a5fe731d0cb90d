"""Choice: one of the ways to quantize, as data, and the one place that quantizes a graph.

Not to quantize is a choice too, which competes with the others wherever they are compared.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimization.quantize.aware_settings import QuantizationAware
from optimization.quantize.dynamic import DynamicInt8, quantize_dynamic
from optimization.quantize.error import QuantizationError
from optimization.quantize.low_precision import LowPrecision, lower_precision
from optimization.quantize.mixed import MixedPrecision, quantize_mixed
from optimization.quantize.modelopt_door import TensorRtQuantization, quantize_for_tensorrt
from optimization.quantize.static import StaticInt8, quantize_static
from optimization.quantize.weight_only import WeightOnly, quantize_weights
from training.artifact import Precision
from training.encoding import Array, TensorSpec


@dataclass(frozen=True)
class NoQuantization:
    """The float graph as it is."""


PostTraining = (
    NoQuantization | StaticInt8 | DynamicInt8 | MixedPrecision | LowPrecision | WeightOnly | TensorRtQuantization
)
# What is trained for INT8 has no float graph to quantize: optimization/quantize/aware.py carries that one out.
Quantization = PostTraining | QuantizationAware
KINDS: dict[str, type[Any]] = {
    "none": NoQuantization,
    "static_int8": StaticInt8,
    "aware_int8": QuantizationAware,
    "dynamic_int8": DynamicInt8,
    "mixed": MixedPrecision,
    "low_precision": LowPrecision,
    "weight_only": WeightOnly,
    "tensorrt": TensorRtQuantization,
}


def quantize(content: bytes, choice: PostTraining, rows: Array, spec: TensorSpec) -> bytes:
    """The float graph `content` as `choice` says; `rows` are of the calibration split, for those that need some.

    Raises QuantizationError where that cannot be.
    """
    match choice:
        case NoQuantization():
            return content
        case StaticInt8():
            return quantize_static(content, rows, spec, choice)
        case DynamicInt8():
            return quantize_dynamic(content, choice)
        case MixedPrecision():
            return quantize_mixed(content, rows, spec, choice).content
        case LowPrecision():
            return lower_precision(content, choice)
        case WeightOnly():
            return quantize_weights(content, choice)
        case TensorRtQuantization():
            return quantize_for_tensorrt(content, rows, spec, choice)


def precision_of(choice: PostTraining) -> Precision:
    """What the manifest of the result says."""
    match choice:
        case NoQuantization():
            return "fp32"
        case LowPrecision() | TensorRtQuantization():
            return choice.format
        case WeightOnly():
            return "int4" if choice.bits == 4 else "int8"
        case _:
            return "int8"


def to_json(choice: Quantization) -> dict[str, Any]:
    """`{"kind": ..., field: value}`, nested where a choice holds another."""
    kind = next(name for name, made in KINDS.items() if type(choice) is made)
    return {"kind": kind, **dataclasses.asdict(choice)}


def from_json(data: Mapping[str, Any]) -> Quantization:
    """Inverse of `to_json`; raises QuantizationError on an unknown kind or field, and on values that do not fit."""
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise QuantizationError(f"quantization kind {kind!r} is not one of {', '.join(KINDS)}")
    known = [field.name for field in dataclasses.fields(KINDS[kind])]
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise QuantizationError(f"{kind} has no {', '.join(unknown)}; it has {', '.join(known) or 'no fields'}")
    if kind in ("mixed", "aware_int8") and "static" in fields:
        if not isinstance(fields["static"], Mapping):
            raise QuantizationError(f"static of {kind} is {fields['static']!r}: give the fields of static_int8")
        fields["static"] = from_json({"kind": "static_int8", **fields["static"]})
    try:
        made: Quantization = KINDS[kind](**fields)
    except TypeError as error:
        raise QuantizationError(f"{kind} with {dict(data)}: {error}") from error
    return made
