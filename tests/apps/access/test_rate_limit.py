"""TokenBucket: the burst first, then the rate, and never more than the burst after a rest."""

import pytest

from apps.access.rate_limit import TokenBucket


def test_a_burst_passes_and_then_the_rate_decides(clock):
    bucket = TokenBucket(10.0, 3, clock)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == pytest.approx(0.1)
    clock.now_s += 0.1001
    assert bucket.take() == 0
    assert bucket.take() > 0


def test_part_of_a_rest_fills_part_of_the_burst(clock):
    bucket = TokenBucket(10.0, 10, clock)
    assert [bucket.take() == 0 for _ in range(11)] == [True] * 10 + [False]
    clock.now_s += 0.35
    assert [bucket.take() == 0 for _ in range(4)] == [True] * 3 + [False]


def test_a_refusal_costs_nothing(clock):
    bucket = TokenBucket(1.0, 1, clock)
    bucket.take()
    for _ in range(100):
        clock.now_s += 0.009
        assert bucket.take() > 0
    clock.now_s += 0.1001
    assert bucket.take() == 0


def test_a_long_rest_fills_no_more_than_the_burst(clock):
    bucket = TokenBucket(100.0, 5, clock)
    clock.now_s += 3600
    assert sum(bucket.take() == 0 for _ in range(50)) == 5


def test_over_a_long_time_the_rate_holds(clock):
    bucket = TokenBucket(20.0, 10, clock)
    passed = 0
    for _ in range(10_000):
        clock.now_s += 0.001
        passed += bucket.take() == 0
    assert passed == pytest.approx(10 + 20 * 10, abs=1)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5), (float("nan"), 1)])
def test_a_bucket_that_never_gives_is_refused(rate, burst):
    with pytest.raises(ValueError, match="rate_per_s"):
        TokenBucket(rate, burst)
