import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, multinomial

from optimization.measure.paired import (
    class_deltas,
    flip_rate,
    inferiority_p_value,
    mcnemar_p_value,
    paired_difference,
    tango_score,
)


def pair(both: int, lost: int, gained: int, neither: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    reference = np.repeat([True, True, False, False], [both, lost, gained, neither])
    candidate = np.repeat([True, False, True, False], [both, lost, gained, neither])
    return reference, candidate


def test_difference_counts_the_rows_that_only_one_got_right() -> None:
    paired = paired_difference(*pair(both=80, lost=9, gained=4, neither=7))
    assert (paired.reference_only, paired.candidate_only, paired.rows) == (9, 4, 100)
    assert paired.difference == pytest.approx(-0.05)
    assert paired.lower < -0.05 < paired.upper


def test_the_score_agrees_with_another_implementation() -> None:
    # Complete response before and after consolidation therapy (Cavo et al., 2012), Tango's 95 % score interval by R's
    # contingencytables: the score is a standard normal quantile at its ends.
    for end, quantile in ((-0.1240, 1.96), (-0.0054, -1.96)):
        assert float(tango_score(6, 16, 161, end)) == pytest.approx(quantile, abs=0.02)


def test_exact_bounds_lie_close_to_the_score_s_and_no_nearer_than_they_may() -> None:
    paired = paired_difference(*pair(both=59, gained=6, lost=16, neither=80), confidence=0.975)
    assert (paired.lower, paired.upper) == pytest.approx((-0.1240, -0.0054), abs=6e-3)


def test_swapping_the_pair_mirrors_the_bounds() -> None:
    reference, candidate = pair(both=200, lost=12, gained=3, neither=9)
    forth, back = paired_difference(reference, candidate), paired_difference(candidate, reference)
    assert (forth.lower, forth.upper) == pytest.approx((-back.upper, -back.lower))


@pytest.mark.parametrize(
    ("both", "lost", "gained", "neither"), [(0, 5, 0, 0), (0, 0, 5, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 4)]
)
def test_degenerate_tables_give_bounds_in_range(both: int, lost: int, gained: int, neither: int) -> None:
    paired = paired_difference(*pair(both, lost, gained, neither))
    assert -1 <= paired.lower <= paired.difference <= paired.upper <= 1


@pytest.mark.slow
@pytest.mark.parametrize("rows", [25, 60])
def test_a_bound_misses_the_truth_no_more_often_than_it_says(rows: int) -> None:
    """Exact, by summing over every table whose lower bound lies above the true difference."""
    lower = {
        (lost, gained): paired_difference(*pair(rows - lost - gained, lost, gained), confidence=0.9).lower
        for lost in range(rows + 1)
        for gained in range(rows + 1 - lost)
        if lost + gained <= 24
    }
    worst = 0.0
    for lost_share in (0.01, 0.03, 0.08, 0.15):
        for difference in (-0.01, 0.0, 0.02, 0.06):
            gained_share = lost_share + difference
            if gained_share < 0:
                continue
            shares = [lost_share, gained_share, 1 - lost_share - gained_share]
            missed = sum(
                multinomial.pmf([lost, gained, rows - lost - gained], rows, shares)
                for (lost, gained), bound in lower.items()
                if bound > difference
            )
            assert missed <= 0.1
            worst = max(worst, missed)
    assert worst > 0.03, "a bound that hardly ever misses is wider than it need be"


def test_the_p_value_is_the_probability_of_as_good_a_table() -> None:
    # With no row gained and none lost, only tables with as many gained as lost, or more, are as good.
    rows = 40
    shares = np.linspace(0.05, 0.25, 400)
    by_hand = max(
        sum(
            multinomial.pmf([lost, gained, rows - lost - gained], rows, [share, share - 0.05, 1.05 - 2 * share])
            for lost in range(12)
            for gained in range(14)
            if tango_score(gained, lost, rows, -0.05) >= tango_score(0, 0, rows, -0.05) - 1e-12
        )
        for share in shares[::20]
    )
    assert inferiority_p_value(0, 0, rows, -0.05) == pytest.approx(by_hand, abs=4e-3)


def test_bounds_of_many_rows_come_in_a_moment() -> None:
    paired = paired_difference(*pair(both=4600, lost=70, gained=75, neither=255))
    error = np.sqrt(145 / 5000**2)
    assert paired.lower == pytest.approx(0.001 - 1.645 * error, abs=2e-4)
    assert paired.upper == pytest.approx(0.001 + 1.645 * error, abs=2e-4)


def test_mcnemars_test_is_the_binomial_one() -> None:
    assert mcnemar_p_value(10, 2) == pytest.approx(2 * binom.cdf(2, 12, 0.5))
    assert mcnemar_p_value(3, 3) == mcnemar_p_value(0, 0) == 1.0
    with pytest.raises(ValueError, match="cannot be negative"):
        mcnemar_p_value(-1, 2)


def test_a_class_that_got_worse_for_certain_is_told_from_chance() -> None:
    labels = np.repeat([0, 1, 2], 100)
    reference, candidate = labels.copy(), labels.copy()
    candidate[:12] = 1  # class 0 loses twelve rows and wins none
    candidate[100:104], reference[104:107] = 2, 2  # class 1 loses four and wins three
    deltas = class_deltas(labels, reference, candidate, ("a", "b", "c", "d"))
    assert [delta.label for delta in deltas] == ["a", "b", "c"], "a class without rows has no delta"
    first, second, third = deltas
    assert (first.delta, first.reference_only, first.candidate_only) == (pytest.approx(-0.12), 12, 0)
    assert first.p_value == pytest.approx(3 * 2 * 0.5**12)  # Holm: the least of three counts three times
    assert first.worse and not second.worse and not third.worse
    assert second.candidate_accuracy == pytest.approx(0.96)
    assert second.reference_accuracy == pytest.approx(0.97)
    assert third.p_value == 1.0
    assert first.to_json()["worse"] is True


def test_flip_rate_counts_differing_answers() -> None:
    assert flip_rate(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])) == 0.5


def test_rows_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.ones(3, dtype=np.bool_), np.ones(4, dtype=np.bool_))
    with pytest.raises(ValueError, match="cannot be paired"):
        flip_rate(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"confidence is 0\.4"):
        paired_difference(*pair(5, 1, 1), confidence=0.4)
    with pytest.raises(ValueError, match="do not pair"):
        class_deltas(np.zeros(3), np.zeros(3), np.zeros(4), ("a",))
