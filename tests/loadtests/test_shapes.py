from itertools import pairwise

import numpy as np
import pytest

from loadtests.shapes import SHAPE_NAMES, Shape, ShapeName, arrivals


def rates(name: ShapeName) -> list[float]:
    """At every second of 30."""
    shape = Shape(name, base=10, peak=50, duration_s=30)
    return [shape.rate(second) for second in range(31)]


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_every_shape_stays_between_base_and_peak_and_reaches_the_peak(name: ShapeName) -> None:
    assert min(rates(name)) >= 10
    assert max(rates(name)) == 50


def test_shapes_are_as_their_names_say() -> None:
    assert set(rates("steady")) == {50}
    assert rates("step") == [10] * 10 + [50] * 10 + [10] * 11
    assert [second for second, rate in enumerate(rates("spike")) if rate == 50] == [14, 15, 16]
    assert all(later > earlier for earlier, later in pairwise(rates("ramp")))
    day = rates("diurnal")
    assert day == pytest.approx(day[::-1])
    assert day[0] == 10 and day[15] == 50


def test_before_and_after_a_shape_the_load_is_as_at_its_ends() -> None:
    ramp = Shape("ramp", base=10, peak=50, duration_s=30)
    assert (ramp.rate(-5), ramp.rate(100)) == (10, 50)


def test_arrivals_follow_the_rate() -> None:
    shape = Shape("step", base=10, peak=50, duration_s=30)
    times_s = arrivals(shape.rate, 30, np.ones(2_000))
    counts, _ = np.histogram(times_s, bins=[0, 10, 20, 30])
    assert list(counts) == pytest.approx([100, 500, 100], abs=2)
    assert np.all(np.diff(times_s) > 0)


def test_exponential_gaps_make_a_poisson_process() -> None:
    gaps = np.random.default_rng(3).exponential(1.0, 40_000)
    times_s = arrivals(Shape("ramp", base=0, peak=400, duration_s=100).rate, 100, gaps)
    assert len(times_s) == pytest.approx(20_000, rel=0.03)
    early, late = np.histogram(times_s, bins=[0, 50, 100])[0]
    # The areas under the two halves of the ramp are as 1 to 3.
    assert late / early == pytest.approx(3, rel=0.05)
    within = times_s[(times_s > 80) & (times_s < 81)]
    assert np.diff(within).std() == pytest.approx(np.diff(within).mean(), rel=0.2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "wave"}, "steady, step"),
        ({"base": 60}, "base <= peak"),
        ({"base": -1}, "base <= peak"),
        ({"peak": 0, "base": 0}, "above 0"),
        ({"duration_s": 0}, "duration_s is 0"),
        ({"peak": float("nan")}, "peak"),
    ],
)
def test_impossible_shape_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shape(**{"name": "step", "base": 10, "peak": 50, "duration_s": 30} | wrong)  # type: ignore[arg-type]
