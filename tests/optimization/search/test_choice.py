import pytest

from optimization.search.choice import Wish, choose
from tests.optimization.search.candidates import TEACHER, candidate

QUICK = candidate(2, wrong=52, ms=1.0, size_bytes=2000)
SMALL = candidate(3, wrong=54, ms=2.0, size_bytes=500)
WILD = candidate(4, wrong=200, ms=0.1, size_bytes=100)
ALL = [TEACHER, QUICK, SMALL, WILD]


@pytest.mark.parametrize(("objective", "number"), [("throughput", 2), ("latency", 2), ("size", 3), ("accuracy", 1)])
def test_the_best_by_the_objective_is_chosen_among_those_that_keep_the_limits(objective: str, number: int) -> None:
    choice = choose(ALL, TEACHER, Wish(objective, max_accuracy_drop=0.02))  # type: ignore[arg-type]
    assert choice.number == number
    assert "3 of 4 candidates" in choice.reason


def test_a_drop_must_be_shown_to_be_small_and_not_just_look_so() -> None:
    """QUICK lost 0.2 points on these rows, which cannot rule out that 0.3 are lost."""
    assert choose([TEACHER, QUICK], TEACHER, Wish("latency", 0.003)).number == TEACHER.number
    assert choose([TEACHER, QUICK], TEACHER, Wish("latency", 0.01)).number == QUICK.number


def test_a_limit_of_time_is_of_the_95th_percentile() -> None:
    late = candidate(5, wrong=50, ms=0.5, size_bytes=100, p95_ms=9.0)
    assert choose([TEACHER, QUICK, late], TEACHER, Wish("latency", 0.02, max_p95_ms=3.0)).number == QUICK.number


def test_a_limit_of_size_is_kept() -> None:
    assert choose(ALL, TEACHER, Wish("throughput", 0.02, max_size_bytes=1000)).number == SMALL.number


def test_where_nothing_fits_the_nearest_is_named_with_what_it_lacks() -> None:
    choice = choose([TEACHER, QUICK], TEACHER, Wish("size", 0.02, max_p95_ms=0.5))
    assert choice.number is None
    assert "none of 2 candidates" in choice.reason and "p95 of one row is" in choice.reason


def test_a_speed_up_is_claimed_where_its_interval_shows_one() -> None:
    assert "4.00 times as fast alone" in choose(ALL, TEACHER, Wish("latency", 0.02)).reason
    same = candidate(6, wrong=40, ms=4.0, size_bytes=4000)
    assert "no faster for certain" in choose([TEACHER, same], TEACHER, Wish("accuracy", 0.02)).reason


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "fun"}, "'fun' is not one of"),
        ({"max_accuracy_drop": 0.0}, "at most 0 points"),
        ({"max_p95_ms": 0.0}, "max_p95_ms is 0"),
        ({"max_size_bytes": -1}, "max_size_bytes is -1"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wish(**fields)  # type: ignore[arg-type]
