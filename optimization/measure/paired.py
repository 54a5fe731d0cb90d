"""Paired: how two models differ on the same rows, with exact bounds and tests.

Shape suffixes: N rows, L counts of rows lost, G counts of rows gained, K nuisance values.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array
from training.evaluation.slices import SIGNIFICANCE, holm

CONFIDENCE = 0.95
# Of the error that is allowed, the part given up for looking only where the share of rows lost can lie.
NUISANCE_ERROR = 1e-4
NUISANCE_VALUES = 48
# What lies further out in a binomial's tails is counted as if it were against the candidate.
TAIL = 1e-9


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of a candidate minus that of its reference on the same rows.

    `lower` and `upper` are exact one-sided bounds, each at `confidence`; together they are an interval at
    2 * confidence - 1. `reference_only` and `candidate_only` count the rows that only one got right.
    """

    difference: float
    lower: float
    upper: float
    reference_only: int
    candidate_only: int
    rows: int
    confidence: float


@dataclass(frozen=True)
class ClassDelta:
    """How many rows of one class only one of two models got right.

    `p_value` is of the exact McNemar test, corrected for the number of classes (Holm 1979): the probability that two
    equally good models would differ so much on this class.
    """

    label: str
    rows: int
    reference_accuracy: float
    candidate_accuracy: float
    reference_only: int
    candidate_only: int
    p_value: float

    @property
    def delta(self) -> float:
        return self.candidate_accuracy - self.reference_accuracy

    @property
    def worse(self) -> bool:
        return self.delta < 0 and self.p_value < SIGNIFICANCE

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "delta": self.delta, "worse": self.worse}


def paired_difference(
    reference_correct: NDArray[np.bool_], candidate_correct: NDArray[np.bool_], confidence: float = CONFIDENCE
) -> PairedDifference:
    """Difference of two paired proportions, with exact unconditional bounds.

    A bound is the outermost difference that an exact test does not reject, see `inferiority_p_value`.
    """
    if reference_correct.shape != candidate_correct.shape or reference_correct.ndim != 1 or not reference_correct.size:
        raise ValueError(
            f"correctness of shapes {reference_correct.shape} and {candidate_correct.shape} cannot be paired: "
            "give one bool a row, for the same rows"
        )
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: it must lie between 0.5 and 1")
    rows = len(reference_correct)
    lost = int((reference_correct & ~candidate_correct).sum())
    gained = int((candidate_correct & ~reference_correct).sum())
    return PairedDifference(
        difference=(gained - lost) / rows,
        # The problem is symmetric: the upper bound is the lower bound of the swapped pair, negated.
        lower=_lower_bound(gained, lost, rows, confidence),
        upper=-_lower_bound(lost, gained, rows, confidence),
        reference_only=lost,
        candidate_only=gained,
        rows=rows,
        confidence=confidence,
    )


def inferiority_p_value(gained: int, lost: int, rows: int, difference: float) -> float:
    """How probable so good a candidate is at most where its true difference is no more than `difference`.

    Exact: the rows gained and lost are trinomial; tables are ordered by the score statistic of T. Tango, "Equivalence
    test and confidence interval for the difference in proportions for the paired-sample design", Statistics in
    Medicine 17 (1998), 891-908. The share of rows lost is unknown, so the largest probability counts over an interval
    that holds it but for an error that is added (R. L. Berger and D. D. Boos, "P values maximized over a confidence set
    for the nuisance parameter", JASA 89 (1994), 1012-1016).
    """
    from scipy.stats import binom

    if difference >= 1:
        return 1.0
    low, high = _nuisance_interval(gained, lost, rows, difference)
    if low > high:
        return NUISANCE_ERROR
    shares_K = np.linspace(low, high, NUISANCE_VALUES)
    first = int(binom.ppf(TAIL, rows, low))
    last = int(binom.ppf(1 - TAIL, rows, high))
    lost_L = np.arange(max(0, first), min(rows, last) + 1)
    least_L = _least_gained(lost_L, rows, difference, tango_score(gained, lost, rows, difference))
    inside_KL = binom.pmf(lost_L, rows, shares_K[:, None])
    # Given the rows lost, those gained are binomial among the others.
    share_K = np.clip((shares_K + difference) / np.maximum(1 - shares_K, 1e-12), 0, 1)
    as_good_KL = binom.sf(least_L - 1, rows - lost_L, share_K[:, None])
    p_K = (inside_KL * as_good_KL).sum(axis=1) + 2 * TAIL
    return float(min(1.0, p_K.max() + NUISANCE_ERROR))


def mcnemar_p_value(lost: int, gained: int) -> float:
    """Exact two-sided p-value that rows are lost as often as gained (McNemar 1947, by the binomial)."""
    from scipy.stats import binom

    if lost < 0 or gained < 0:
        raise ValueError(f"{lost} rows lost and {gained} gained: counts cannot be negative")
    return float(min(1.0, 2 * binom.cdf(min(lost, gained), lost + gained, 0.5)))


def class_deltas(
    labels_N: Array, reference_N: Array, candidate_N: Array, class_names: Sequence[str]
) -> tuple[ClassDelta, ...]:
    """A ClassDelta for each class that has rows; `reference_N` and `candidate_N` are the predicted classes."""
    if not labels_N.shape == reference_N.shape == candidate_N.shape or not labels_N.size:
        raise ValueError(
            f"labels {labels_N.shape}, predictions {reference_N.shape} and {candidate_N.shape} do not pair"
        )
    right, right_too = reference_N == labels_N, candidate_N == labels_N
    counted = []
    for index, label in enumerate(class_names):
        held = labels_N == index
        if held.any():
            lost, gained = int((right & ~right_too & held).sum()), int((right_too & ~right & held).sum())
            counted.append((label, int(held.sum()), int((right & held).sum()), lost, gained))
    p_values = holm([mcnemar_p_value(lost, gained) for *_, lost, gained in counted])
    return tuple(
        ClassDelta(label, rows, hits / rows, (hits - lost + gained) / rows, lost, gained, p_value)
        for (label, rows, hits, lost, gained), p_value in zip(counted, p_values, strict=True)
    )


def flip_rate(reference_N: Array, candidate_N: Array) -> float:
    """Share of rows whose predicted classes differ."""
    if reference_N.shape != candidate_N.shape or not reference_N.size:
        raise ValueError(f"predictions of shapes {reference_N.shape} and {candidate_N.shape} cannot be paired")
    return float((reference_N != candidate_N).mean())


def tango_score(gained: Array | int, lost: Array | int, rows: int, difference: float) -> Any:
    """Tango's statistic: standard errors between the estimate and `difference`; counts may be arrays."""
    gained, lost = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    excess = gained - lost - rows * difference
    a = 2 * rows
    b = -gained - lost + (2 * rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    lost_share = (np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = rows * (2 * lost_share + difference * (1 - difference))
    with np.errstate(divide="ignore", invalid="ignore"):
        score = excess / np.sqrt(np.maximum(variance, 0.0))
    return np.where(np.isnan(score), 0.0, score)


def _lower_bound(gained: int, lost: int, rows: int, confidence: float) -> float:
    """The smallest difference that the exact test does not reject from below."""
    from scipy.optimize import brentq

    error = 1 - confidence
    estimate = (gained - lost) / rows
    if estimate <= -1 or inferiority_p_value(gained, lost, rows, -1 + 1e-9) > error:
        return -1.0
    # The p-value grows from nothing far below the estimate to a half or so at it.
    found = float(brentq(lambda d: inferiority_p_value(gained, lost, rows, d) - error, -1 + 1e-9, estimate, xtol=1e-7))
    # To the safe side of the root's tolerance.
    return max(-1.0, found - 1e-7)


def _nuisance_interval(gained: int, lost: int, rows: int, difference: float) -> tuple[float, float]:
    """Where the share of rows lost lies but for NUISANCE_ERROR, if the true difference is `difference`.

    The share of rows lost is seen directly, and from those gained, since they differ by `difference`. Far from the data
    the two disagree, and nothing is left: low > high.
    """
    from scipy.stats import beta

    tail = NUISANCE_ERROR / 4

    def bounds(count: int) -> tuple[float, float]:
        low = float(beta.ppf(tail, count, rows - count + 1)) if count else 0.0
        high = float(beta.ppf(1 - tail, count + 1, rows - count)) if count < rows else 1.0
        return low, high

    (lost_low, lost_high), (gained_low, gained_high) = bounds(lost), bounds(gained)
    least, most = max(0.0, -difference), (1 - difference) / 2
    return max(least, lost_low, gained_low - difference), min(most, lost_high, gained_high - difference)


def _least_gained(lost_L: Array, rows: int, difference: float, observed: float) -> NDArray[np.int64]:
    """For each count lost the least count gained that scores as high as what was observed; more rows than there are
    where none does. The score grows with the rows gained.
    """
    below_L = np.full(len(lost_L), -1, dtype=np.int64)
    above_L = (rows - lost_L + 1).astype(np.int64)
    tolerance = 1e-9 * max(1.0, abs(observed)) if math.isfinite(observed) else 0.0
    while (above_L - below_L > 1).any():
        middle_L = (below_L + above_L) // 2
        reached_L = tango_score(np.maximum(middle_L, 0), lost_L, rows, difference) >= observed - tolerance
        above_L = np.where(reached_L & (middle_L > below_L), middle_L, above_L)
        below_L = np.where(~reached_L & (middle_L < above_L), middle_L, below_L)
    return above_L
