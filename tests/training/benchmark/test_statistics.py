import numpy as np
import pytest

from training.benchmark.statistics import mean_difference, paired_ratio, spread


def test_a_spread_is_the_median_between_its_quartiles() -> None:
    found = spread([5, 1, 4, 2, 3])
    assert (found.low, found.median, found.high, found.n) == (2, 3, 4, 5)


def test_what_both_of_a_pair_shared_cancels() -> None:
    machine = np.array([1.0, 3.0, 0.2, 5.0])
    found = paired_ratio(list(2 * machine), list(machine))
    assert (found.low, found.mean, found.high) == pytest.approx((2, 2, 2))


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        ratios = np.exp(np.log(0.97) + 0.1 * random.standard_normal(12))
        found = paired_ratio(list(ratios), [1.0] * 12)
        held += found.low <= 0.97 <= found.high
    assert 365 <= held <= 395  # 95 % of 400, within three standard errors


def test_one_pair_tells_nothing_of_its_spread() -> None:
    with pytest.raises(ValueError, match="1 and 1 values make no pairs"):
        paired_ratio([1.0], [1.0])


def test_the_interval_of_a_difference_is_students() -> None:
    # 4.303 is the 97.5 % point of t with two degrees of freedom; the standard error is 1 / sqrt(3).
    found = mean_difference([3.0, 4.0, 5.0], [2.0, 2.0, 2.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    with pytest.raises(ValueError, match="2 and 1 values make no pairs"):
        mean_difference([1.0, 2.0], [1.0])
