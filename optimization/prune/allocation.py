"""Allocation: how many units each group loses, and which. Shape suffixes: U units of a group."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from optimization.prune.criteria import Scores
from optimization.prune.group import Kept
from optimization.prune.settings import Allocation


def choose(scores: Scores, full: Mapping[str, int], share: float, allocation: Allocation, round_to: int) -> Kept:
    """Which units stay so that about `share` of those there were at first do; `full` are the groups' widths at first.

    "uniform" leaves each group the same share, "global" the best units of all. Widths are rounded to the nearest
    multiple of `round_to`; no group becomes narrower than it, and none wider than it is.
    """
    if allocation == "uniform":
        wanted = {name: full[name] * share for name in scores}
    else:
        wanted = {name: float(count) for name, count in _best_of_all(scores, full, share).items()}
    return {
        name: best_units(score_U, _rounded(wanted[name], len(score_U), round_to)) for name, score_U in scores.items()
    }


def _best_of_all(scores: Scores, full: Mapping[str, int], share: float) -> dict[str, int]:
    """How many units of each group are among the best of all groups."""
    names = np.repeat(np.arange(len(scores)), [len(score_U) for score_U in scores.values()])
    count = min(len(names), round(share * sum(full[name] for name in scores)))
    # Stable, so that units of equal worth stay by their order, and the same are chosen every time.
    best = np.argsort(-np.concatenate(list(scores.values())), kind="stable")[:count]
    counts = np.bincount(names[best], minlength=len(scores))
    return {name: int(number) for name, number in zip(scores, counts, strict=True)}


def _rounded(wanted: float, width: int, round_to: int) -> int:
    multiple = int(wanted / round_to + 0.5) * round_to
    return min(width, max(round_to, multiple))


def best_units(score_U: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    kept_U = np.zeros(len(score_U), dtype=np.bool_)
    kept_U[np.argsort(-score_U, kind="stable")[:count]] = True
    return kept_U
