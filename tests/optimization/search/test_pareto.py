from hypothesis import given
from hypothesis import strategies as st

from optimization.search.pareto import Point, front, layers, survivors

few = st.integers(0, 4)
points = st.lists(st.tuples(few, few, few), min_size=1, max_size=12).map(
    lambda found: [Point(number, a / 4, float(t), s) for number, (a, t, s) in enumerate(found)]
)


def test_a_point_dominates_what_it_beats_somewhere_and_equals_elsewhere() -> None:
    point = Point(1, 0.9, 2.0, 100)
    assert point.dominates(Point(2, 0.9, 2.0, 101))
    assert point.dominates(Point(2, 0.8, 3.0, 101))
    assert not point.dominates(Point(2, 0.9, 2.0, 100)), "an equal is no worse"
    assert not point.dominates(Point(2, 0.91, 9.0, 999)), "more accurate, at whatever price"


def test_the_front_is_told_from_the_most_accurate_down() -> None:
    best, small, quick, beaten = Point(0, 0.9, 3, 30), Point(1, 0.7, 2, 10), Point(2, 0.8, 1, 20), Point(3, 0.7, 3, 40)
    assert front([beaten, small, quick, best]) == [best, quick, small]


@given(points)
def test_the_front_is_what_no_point_dominates_and_each_other_is_dominated_by_one_of_it(found: list[Point]) -> None:
    kept = front(found)
    assert kept
    for point in found:
        beaten = any(other.dominates(point) for other in kept)
        assert (point in kept) is not beaten


@given(points)
def test_layers_hold_every_point_once(found: list[Point]) -> None:
    assert sorted(point.number for layer in layers(found) for point in layer) == sorted(p.number for p in found)


@given(points, st.floats(0.05, 1))
def test_whoever_goes_on_is_beaten_by_nobody_who_does_not(found: list[Point], keep: float) -> None:
    kept = set(survivors(found, keep))
    assert len(kept) >= keep * len(found)
    assert {point.number for point in front(found)} <= kept
    for point in found:
        if point.number in kept:
            assert not any(other.dominates(point) for other in found if other.number not in kept)


def test_all_go_on_where_all_are_kept_and_half_where_half_are() -> None:
    line = [Point(number, 1 - number / 10, float(number), number + 1) for number in range(6)]
    beaten = [Point(10 + number, 0.1, 20.0 + number, 100) for number in range(6)]
    assert survivors(line + beaten, 1.0) == sorted(point.number for point in line + beaten)
    assert survivors(line + beaten, 0.5) == [0, 1, 2, 3, 4, 5]
