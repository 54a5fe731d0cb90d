"""Confidence: whether a model that says 90 % is right nine times in ten.

The bootstrap is no help for the calibration error: it is a sum of absolute values, which noise only makes larger, and
noise upon noise larger still (of a perfectly calibrated model's, none of 200 percentile intervals held the truth). So
the error is set against what chance alone would show on as many rows, and an interval is given for the signed gap.

Shape suffixes: R resamples, B rows, C classes, K bins.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.encoding import Array, softmax
from training.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, mean_of
from training.evaluation.scores import RELIABILITY_BINS, check_logits, reliability_bins


@dataclass(frozen=True)
class Confidence:
    """`gap` is mean confidence minus accuracy: above 0 the model is too sure of itself.

    `ece_by_chance` is what the expected calibration error of a perfectly calibrated model with these confidences stays
    below 19 times in 20, on as many rows (consistency resampling: Bröcker and Smith 2007). `temperature`, where one was
    fitted on other rows, is what logits would be divided by; `ece_scaled` is the error after that.
    """

    gap: float
    gap_interval: Interval
    ece: float
    ece_by_chance: float
    temperature: float | None
    ece_scaled: float | None

    @property
    def is_off(self) -> bool:
        """Whether the calibration error is more than chance would show."""
        return self.ece > self.ece_by_chance

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_confidence(logits_BC: Array, labels_B: Array, temperature: float | None = None) -> Confidence:
    """`temperature` must come from other rows. Raises ValueError as `check_logits` does."""
    check_logits(logits_BC, labels_B)
    confidence_B = softmax(logits_BC).max(axis=1)
    gap_B = confidence_B - (logits_BC.argmax(axis=1) == labels_B)
    return Confidence(
        gap=float(gap_B.mean()),
        gap_interval=bootstrap(mean_of(gap_B), len(labels_B)),
        ece=reliability_bins(logits_BC, labels_B).ece,
        ece_by_chance=_ece_by_chance(confidence_B),
        temperature=temperature,
        ece_scaled=None if temperature is None else reliability_bins(logits_BC / temperature, labels_B).ece,
    )


def _ece_by_chance(confidence_B: Array, resamples: int = RESAMPLES, quantile: float = 0.95) -> float:
    """The quantile of the calibration error when each row is right with exactly its confidence."""
    edges = np.linspace(0.0, 1.0, RELIABILITY_BINS + 1)
    bin_B = np.clip(np.searchsorted(edges, confidence_B, side="left") - 1, 0, RELIABILITY_BINS - 1)
    order_B = np.argsort(bin_B, kind="stable")
    starts_K = np.flatnonzero(np.diff(bin_B[order_B], prepend=-1))
    sorted_B = confidence_B[order_B]
    generator = np.random.default_rng(0)
    errors_R = np.empty(resamples)
    for r in range(resamples):
        gap_B = sorted_B - (generator.random(len(sorted_B)) < sorted_B)
        errors_R[r] = np.abs(np.add.reduceat(gap_B, starts_K)).sum() / len(sorted_B)
    return float(np.quantile(errors_R, quantile))
