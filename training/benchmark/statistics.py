"""Medians with their spread, and bounds on ratios and differences of paired measurements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median of `n` values and the quartiles around it."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.low:,.0f}-{self.high:,.0f})"


def spread(values: Sequence[float]) -> Spread:
    low, median, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, low, high, len(values))


@dataclass(frozen=True)
class Ratio:
    """The geometric mean of `n` paired ratios with its two-sided 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """How many times greater the first are than the second, pair by pair: Student's interval of the ratios' logarithms.

    Pairs that were measured side by side share what the machine did meanwhile, which cancels in their ratio.
    Raises ValueError for fewer than two pairs.
    """
    from scipy.stats import t

    if len(numerators) != len(denominators) or len(numerators) < 2:
        raise ValueError(f"{len(numerators)} and {len(denominators)} values make no pairs: give two or more of each")
    logs = np.log(np.asarray(numerators) / np.asarray(denominators))
    mean, error = float(logs.mean()), float(logs.std(ddof=1) / math.sqrt(len(logs)))
    margin = float(t.ppf(0.975, len(logs) - 1)) * error
    return Ratio(math.exp(mean), math.exp(mean - margin), math.exp(mean + margin), len(logs))


@dataclass(frozen=True)
class Difference:
    """The mean of `n` paired differences with its two-sided 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """How much greater the first are than the second, pair by pair: Student's interval of the mean difference.

    Raises ValueError for fewer than two pairs.
    """
    from scipy.stats import t

    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} values make no pairs: give two or more of each")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean, error = float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))
    margin = float(t.ppf(0.975, len(differences) - 1)) * error
    return Difference(mean, mean - margin, mean + margin, len(differences))
