import numpy as np
import pytest

from optimization.cascade.cost import expected_cost_ms
from optimization.cascade.target import Prospect, foresee, loosest_that, strictest_within


@pytest.fixture(scope="module")
def prospects() -> tuple[Prospect, ...]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 3000)
    truth = np.eye(4)[labels]
    hardness = generator.gamma(2.0, 0.8, (3000, 1))
    teacher = 6 * truth + generator.normal(size=(3000, 4)) * (0.6 + hardness)
    student = 2.2 * (3 * truth + generator.normal(size=(3000, 4)) * (0.3 + hardness))
    return foresee(
        student.astype(np.float32),
        teacher.astype(np.float32),
        labels,
        bounds=(0.04, 0.001, 0.02, 0.03),
        rows=800,
        temperature_rows=100,
        student_ms=0.2,
        teacher_ms=1.0,
        draws=8,
    )


def test_a_stricter_bound_defers_more_and_costs_more(prospects: tuple[Prospect, ...]) -> None:
    assert [one.max_harm for one in prospects] == [0.001, 0.02, 0.03, 0.04]
    costs = [one.cost_ms for one in prospects]
    assert costs == sorted(costs, reverse=True)
    assert all(one.cost_ms == pytest.approx(expected_cost_ms(0.2, 1.0, one.deferral)) for one in prospects)
    assert all(one.harm < one.max_harm for one in prospects)
    thresholds = [one.threshold for one in prospects[1:]]
    assert thresholds == sorted(thresholds, reverse=True)  # type: ignore[type-var]


def test_a_bound_that_most_calibrations_cannot_keep_has_no_threshold(prospects: tuple[Prospect, ...]) -> None:
    first = prospects[0]  # 700 rows promise no tenth of a percent
    assert first.threshold is None
    assert (first.deferral, first.harm) == (1.0, 0.0)


def test_the_strictest_bound_that_can_be_afforded_is_taken(prospects: tuple[Prospect, ...]) -> None:
    assert strictest_within(prospects, 10.0) == prospects[0]
    assert strictest_within(prospects, (prospects[1].cost_ms + prospects[2].cost_ms) / 2) == prospects[2]
    with pytest.raises(ValueError, match=r"no harm bound brings the pair down to 0\.19 ms a row: at 4\.00% it defers"):
        strictest_within(prospects, 0.19)


def test_the_loosest_bound_before_the_first_failure_is_taken(prospects: tuple[Prospect, ...]) -> None:
    assert loosest_that(prospects, lambda one: True) == prospects[-1]
    # What passes behind a failure has passed by chance.
    assert loosest_that(prospects, lambda one: one.max_harm != 0.03) == prospects[1]
    with pytest.raises(ValueError, match=r"not even a harm bound of 0\.10% passes"):
        loosest_that(prospects, lambda one: False)
