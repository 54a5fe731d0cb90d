"""QuantizationAware: how quantization-aware training goes, as data."""

from dataclasses import dataclass, field
from typing import Literal

from optimization.quantize.error import QuantizationError
from optimization.quantize.static import StaticInt8


@dataclass(frozen=True)
class QuantizationAware:
    """What it does not say, such as the augmentation, is as in the recipe that the model was trained by; but it trains
    in float32, and to the end.
    """

    static: StaticInt8 = field(default_factory=StaticInt8)  # types, and how the ranges begin
    ranges: Literal["learned", "fixed"] = "learned"  # fixed: as the calibration rows set them
    # By the labels alone, or also by the answers of the model in float (Hinton's distillation, as Distill has it).
    learn_from: Literal["labels", "distil"] = "labels"
    epochs: int = 3
    lr: float = 2e-4  # AdamW's, at its peak

    def __post_init__(self) -> None:
        if self.ranges not in ("learned", "fixed"):
            raise QuantizationError(f"ranges is {self.ranges!r}; they are learned or fixed")
        if self.learn_from not in ("labels", "distil"):
            raise QuantizationError(f"learn_from is {self.learn_from!r}; it is labels or distil")
        if self.epochs < 1 or not self.lr > 0:
            raise QuantizationError(f"epochs is {self.epochs}, lr is {self.lr}: give 1 or more, and above 0")
        if self.static.weights != "int8" or self.static.float_ops or self.static.float_nodes:
            raise QuantizationError("quantization-aware training has INT8 weights, and leaves no layer out by name")
