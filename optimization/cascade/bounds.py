"""Bounds: exact one-sided bounds of proportions, and the rows that a guarantee needs."""

import math

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array


def rows_needed(max_harm: float, confidence: float) -> int:
    """Rows that the high-probability guarantee needs when none of them is harmed."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_harm))


def clopper_pearson_upper(successes: Array, rows: int, confidence: float) -> NDArray[np.float64]:
    """Exact one-sided upper bounds of proportions (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    successes = np.asarray(successes, dtype=np.float64)
    upper: NDArray[np.float64] = np.where(
        successes >= rows, 1.0, beta.ppf(confidence, successes + 1, np.maximum(rows - successes, 0.5))
    )
    return upper


def clopper_pearson_lower(successes: int, rows: int, confidence: float) -> float:
    """Exact one-sided lower bound of a proportion."""
    return float(1 - clopper_pearson_upper(np.array(rows - successes), rows, confidence))
