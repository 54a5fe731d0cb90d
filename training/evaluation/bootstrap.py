"""Bootstrap: how far a score would move on other rows of the same kind, where no exact interval is known.

A resample is the number of times that each row is drawn, so a score is computed on all resamples at once as a
function of those counts. Shape suffixes: R resamples, B rows, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array

RESAMPLES = 1000
# Counts held at once: 32 MB of float64.
CHUNK_CELLS = 4_000_000

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Interval:
    """A percentile interval; `resamples` says of how many."""

    low: float
    high: float
    resamples: int


def bootstrap(
    statistic: Statistic, rows: int, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The percentile interval (Efron 1979) of `statistic`: counts float64 [R, B] -> one value a resample [R].

    The same seed draws the same resamples. A resample whose value is NaN, as without a row of some class, is left
    out; where all are, the interval is NaN.
    """
    if rows < 1 or resamples < 1:
        raise ValueError(f"{resamples} resamples of {rows} rows: there must be at least one of each")
    generator = np.random.default_rng(seed)
    values_R = np.empty(resamples)
    step = max(1, CHUNK_CELLS // rows)
    for start in range(0, resamples, step):
        part = min(step, resamples - start)
        drawn_RB = generator.integers(0, rows, (part, rows)) + rows * np.arange(part)[:, None]
        counts_RB = np.bincount(drawn_RB.ravel(), minlength=part * rows).reshape(part, rows).astype(np.float64)
        values_R[start : start + part] = statistic(counts_RB)
    values_R = values_R[~np.isnan(values_R)]
    if not values_R.size:
        return Interval(float("nan"), float("nan"), resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return Interval(float(low), float(high), resamples)


def mean_of(values_B: Array) -> Statistic:
    """The mean of one value a row."""

    def statistic(counts_RB: NDArray[np.float64]) -> NDArray[np.float64]:
        means_R: NDArray[np.float64] = counts_RB @ values_B / counts_RB.sum(axis=1)
        return means_R

    return statistic


def macro_f1_of(predicted_B: Array, labels_B: Array, classes: int) -> Statistic:
    """Macro F1 over all classes; 0 for one that is neither true nor answered."""
    from scipy.sparse import csr_array

    rows = np.arange(len(labels_B))
    hit_B = predicted_B == labels_B
    ones_B = np.ones(len(labels_B))
    shape = (classes, len(labels_B))
    true_CB = csr_array((ones_B, (labels_B, rows)), shape=shape)
    answered_CB = csr_array((ones_B, (predicted_B, rows)), shape=shape)
    hits_CB = csr_array((hit_B.astype(np.float64), (labels_B, rows)), shape=shape)

    def statistic(counts_RB: NDArray[np.float64]) -> NDArray[np.float64]:
        counts_BR = np.ascontiguousarray(counts_RB.T)
        total_CR = true_CB @ counts_BR + answered_CB @ counts_BR
        f1_CR = 2 * (hits_CB @ counts_BR) / np.maximum(total_CR, 1)
        means_R: NDArray[np.float64] = f1_CR.mean(axis=0)
        return means_R

    return statistic


def macro_auc_of(probabilities_BC: Array, labels_B: Array, classes: Sequence[int]) -> Statistic:
    """The mean over `classes` of each one's area under the ROC curve against the rest; ties count half.

    Each class must have a row, and a row that is not its own.
    """
    plans = []
    for c in classes:
        own, rest = np.flatnonzero(labels_B == c), np.flatnonzero(labels_B != c)
        rest = rest[np.argsort(probabilities_BC[rest, c], kind="stable")]
        ordered, scores = probabilities_BC[rest, c], probabilities_BC[own, c]
        below, upto = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
        plans.append((own, rest, below, upto))

    def statistic(counts_RB: NDArray[np.float64]) -> NDArray[np.float64]:
        sums_R, held_R = np.zeros(len(counts_RB)), np.zeros(len(counts_RB))
        for own, rest, below, upto in plans:
            passed_RB = np.zeros((len(counts_RB), len(rest) + 1))
            np.cumsum(counts_RB[:, rest], axis=1, out=passed_RB[:, 1:])
            own_RB = counts_RB[:, own]
            pairs_R = own_RB.sum(axis=1) * passed_RB[:, -1]
            won_R = (own_RB * (passed_RB[:, below] + passed_RB[:, upto])).sum(axis=1) / 2
            sums_R += won_R / np.maximum(pairs_R, 1)
            held_R += pairs_R > 0
        return np.where(held_R > 0, sums_R / np.maximum(held_R, 1), np.nan)

    return statistic
