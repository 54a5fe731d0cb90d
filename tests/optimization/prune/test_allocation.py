import numpy as np
import pytest

from optimization.prune.allocation import choose

FULL = {"wide": 64, "narrow": 16, "tiny": 4}


def _scores(seed: int = 0, **factor: float) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.random(units) * factor.get(name, 1.0) for name, units in FULL.items()}


def _widths(kept: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: int(stays.sum()) for name, stays in kept.items()}


def test_uniform_leaves_each_group_the_same_share() -> None:
    assert _widths(choose(_scores(), FULL, 0.5, "uniform", 1)) == {"wide": 32, "narrow": 8, "tiny": 2}


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_best_of_each_group_stay(allocation: str) -> None:
    scores = _scores(1)
    for name, stays in choose(scores, FULL, 0.6, allocation, 1).items():
        assert scores[name][stays].min() > scores[name][~stays].max()


def test_global_takes_the_worst_of_all_groups_together() -> None:
    scores = _scores(2)
    kept = choose(scores, FULL, 0.7, "global", 1)
    assert sum(_widths(kept).values()) == round(0.7 * 84)
    worst_kept = min(scores[name][stays].min() for name, stays in kept.items())
    best_out = max(scores[name][~stays].max() for name, stays in kept.items() if not stays.all())
    assert worst_kept > best_out


def test_global_leaves_more_of_a_group_that_matters_more() -> None:
    kept = _widths(choose(_scores(3, narrow=5.0), FULL, 0.5, "global", 1))
    assert kept["narrow"] > 0.8 * 16
    assert kept["wide"] < 0.5 * 64


@pytest.mark.parametrize(("share", "wide", "narrow"), [(0.9, 56, 16), (0.8, 48, 16), (0.55, 32, 8), (0.01, 8, 8)])
def test_widths_are_multiples_and_no_group_gets_narrower_than_one(share: float, wide: int, narrow: int) -> None:
    widths = _widths(choose(_scores(), FULL, share, "uniform", 8))
    assert widths == {"wide": wide, "narrow": narrow, "tiny": 4}  # four channels cannot be cut to eight


@pytest.mark.parametrize("round_to", [1, 8, 16])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_no_group_ever_loses_all(allocation: str, round_to: int) -> None:
    widths = _widths(choose(_scores(4, tiny=0.0), FULL, 0.001, allocation, round_to))
    assert all(width == min(round_to, FULL[name]) for name, width in widths.items())


def test_a_later_round_counts_from_the_widths_at_first() -> None:
    scores = {name: score[: len(score) // 2] for name, score in _scores(5).items()}  # half of them are gone
    assert _widths(choose(scores, FULL, 0.25, "uniform", 1)) == {"wide": 16, "narrow": 4, "tiny": 1}
    assert sum(_widths(choose(scores, FULL, 0.25, "global", 1)).values()) == 21
    assert _widths(choose(scores, FULL, 0.9, "uniform", 8)) == {"wide": 32, "narrow": 8, "tiny": 2}


def test_units_of_equal_worth_are_chosen_the_same_way_each_time() -> None:
    scores = {name: np.ones(units) for name, units in FULL.items()}
    kept = choose(scores, FULL, 0.5, "uniform", 1)
    assert all(stays[: len(stays) // 2].all() for stays in kept.values())
