"""Ranges: between which values a tensor is quantized, found from what it held on the calibration rows.

ONNX Runtime has calibrators too. These differ where those fall short: they hold one batch of activations and not those
of all rows (two gigabytes for 512 rows of a CIFAR-10 ResNet-56), and their entropy searches, which ONNX Runtime's does
not as `quantize_static` calls it: with 128 bins for 128 levels it has one candidate, the whole range.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optimization.quantize.error import QuantizationError
from training.encoding import Array

Calibrator = Literal["minmax", "entropy", "percentile"]
BINS = 2048
LEVELS = 255  # steps of an 8-bit range
CANDIDATES = 100  # of the entropy's search
SMOOTHING = 1e-4
# Batches of activations by tensor; called anew for each pass over the rows.
Batches = Callable[[], Iterable[Mapping[str, Array]]]


@dataclass(frozen=True)
class Range:
    """It always holds 0, which padding and what a ReLU cuts off need exactly."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= 0 <= self.high or not np.isfinite([self.low, self.high]).all():
            raise ValueError(f"a range is {self.low} to {self.high}: it must be finite and hold 0")


def find_ranges(batches: Batches, calibrator: Calibrator, percentile: float = 100.0) -> dict[str, Range]:
    """A Range a tensor.

    `minmax`: all that was seen. `percentile`: all but the outermost values, the given share in percent staying inside,
    half of the rest cut off on each side. `entropy`: shrunk so that the histogram in 255 steps is the nearest to the
    whole by Kullback-Leibler divergence (Migacz 2017, "8-bit inference with TensorRT"); zeros do not count, since
    every range has them exactly. Raises QuantizationError where a tensor held values that are not finite.
    """
    seen = _extremes(batches)
    if calibrator == "minmax":
        return seen
    found = {}
    for name, counts in _histograms(batches, seen, zeros=calibrator == "percentile").items():
        if not counts.any():
            found[name] = seen[name]
        elif calibrator == "percentile":
            found[name] = _within_percentile(counts, seen[name], percentile)
        else:
            found[name] = _least_divergent(counts, seen[name])
    return found


def _extremes(batches: Batches) -> dict[str, Range]:
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    for batch in batches():
        for name, values in batch.items():
            if not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            if not np.isfinite([low, high]).all():
                raise QuantizationError(f"the tensor {name} is not finite on the calibration rows: the model overflows")
            lows[name], highs[name] = min(low, lows.get(name, 0.0)), max(high, highs.get(name, 0.0))
    return {name: Range(lows[name], highs[name]) for name in lows}


def _histograms(batches: Batches, seen: Mapping[str, Range], zeros: bool) -> dict[str, NDArray[np.int64]]:
    """Counts [BINS] of a tensor's values between its lowest and highest, with its zeros or without."""
    counts = {name: np.zeros(BINS, np.int64) for name in seen}
    for batch in batches():
        for name, values in batch.items():
            extent = seen[name]
            if extent.high > extent.low:
                counted = values.ravel() if zeros else values[values != 0]
                counts[name] += np.histogram(counted, bins=BINS, range=(extent.low, extent.high))[0]
    return counts


def _within_percentile(counts: NDArray[np.int64], seen: Range, percentile: float) -> Range:
    outside = counts.sum() * (100.0 - percentile) / 200.0
    first = int(np.searchsorted(np.cumsum(counts), outside, side="right"))
    last = BINS - int(np.searchsorted(np.cumsum(counts[::-1]), outside, side="right"))
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    return Range(min(float(edges[min(first, BINS)]), 0.0), max(float(edges[max(last, 0)]), 0.0))


def _least_divergent(counts: NDArray[np.int64], seen: Range) -> Range:
    """The best of the ranges that are cut off at one distance from 0 on both sides."""
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    furthest = max(-seen.low, seen.high)
    best, least = seen, np.inf
    for share in np.linspace(1.0, 1.0 / CANDIDATES, CANDIDATES):
        first = int(np.searchsorted(edges, -furthest * share))
        last = int(np.searchsorted(edges, furthest * share, side="right")) - 1
        if last - first < LEVELS:
            break
        divergence = _divergence(counts, first, last)
        if divergence < least:
            best, least = Range(min(float(edges[first]), 0.0), max(float(edges[last]), 0.0)), divergence
    return best


def _divergence(counts: NDArray[np.int64], first: int, last: int) -> float:
    """Of the bins `first` to `last`, with what lies outside added to the outermost, from their 255 steps spread out."""
    inside = counts[first:last].astype(np.float64)
    whole = inside.copy()
    whole[0] += counts[:first].sum()
    whole[-1] += counts[last:].sum()
    step = np.arange(len(inside)) * LEVELS // len(inside)
    held = whole > 0
    spread = np.bincount(step, inside, LEVELS) / np.maximum(np.bincount(step, held, LEVELS), 1)
    stepped = np.where(held, spread[step], 0.0)
    p, q = (_smooth(histogram) for histogram in (whole, stepped))
    return float((p * np.log(p / q)).sum())


def _smooth(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """As probabilities, a trace of which is spread over all bins: a divergence from 0 would have no end."""
    total = histogram.sum()
    share = histogram / total if total else np.zeros_like(histogram)
    return share * (1 - SMOOTHING) + SMOOTHING / len(histogram)
