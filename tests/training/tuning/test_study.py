import math

import numpy as np
import pytest

from tests.toys import image_recipe
from training.tuning.ledger import Score, Trial
from training.tuning.space import Point, Space, parse_space
from training.tuning.study import Study, importances


@pytest.fixture(scope="module")
def space() -> Space:
    texts = ["optimizer.lr=log:1e-5..1", "batch_size=log:8..512", "optimizer.name=choice:sgd,adamw", "epochs=int:2..9"]
    return parse_space(image_recipe(), texts)


def accuracy(point: Point) -> float:
    """Highest at a learning rate of 0.01, whatever else."""
    return 1 - abs(math.log10(float(point["optimizer.lr"])) + 2) / 5


def test_points_gather_where_trials_did_well(space: Space) -> None:
    study = Study(space, seed=0)
    found = []
    for number in range(40):
        point = study.ask(number)
        found.append(accuracy(point))
        study.tell(number, found[-1])
    drawn = [accuracy(space.sample(0, number)) for number in range(200)]
    assert np.mean(found[-15:]) > np.mean(drawn) + 0.1
    assert np.mean(found[-15:]) > 0.85


def test_points_lie_in_their_ranges_with_their_types(space: Space) -> None:
    study = Study(space, seed=1)
    for number in range(20):
        point = study.ask(number)
        assert all(0 <= one.share(point[one.field]) <= 1 for one in space.ranges)
        assert type(point["batch_size"]) is int
        study.tell(number, None if number % 5 == 0 else 0.5)


def test_an_adopted_trial_keeps_its_point_and_counts(space: Space) -> None:
    study = Study(space, seed=0)
    study.adopt(3, space.sample(0, 3))
    study.tell(3, 0.7)
    (told,) = study._study.trials
    assert told.params == space.sample(0, 3)
    assert told.value == 0.7


def test_what_an_earlier_process_found_is_built_on(space: Space) -> None:
    study = Study(space, seed=0)
    for number in range(30):
        point = space.sample(5, number)
        study.recall(point, accuracy(point))
    assert np.mean([accuracy(study.ask(number)) for number in range(30, 40)]) > 0.8


def test_a_study_that_goes_on_repeats_no_point(space: Space) -> None:
    study = Study(space, seed=0)
    first = [study.ask(number) for number in range(3)]
    later = Study(space, seed=0)
    for point in first:
        later.recall(point, 0.5)
    assert later.ask(3) not in first


def test_a_point_depends_on_the_seed_the_number_and_what_is_known(space: Space) -> None:
    assert Study(space, seed=0).ask(7) == Study(space, seed=0).ask(7)
    assert Study(space, seed=0).ask(7) != Study(space, seed=0).ask(8)
    assert Study(space, seed=0).ask(7) != Study(space, seed=1).ask(7)


def _trials(space: Space, count: int) -> list[Trial]:
    points = [space.sample(0, number) for number in range(count)]
    return [Trial(n, p, "", scores=(Score(1, 0.0, 0.0, accuracy(p), 0.0),)) for n, p in enumerate(points)]


def test_the_field_that_mattered_comes_first_with_a_spread(space: Space) -> None:
    shares = importances(space, _trials(space, 30))
    assert next(iter(shares)) == "optimizer.lr"
    assert set(shares) == set(space.fields)
    mean, spread = shares["optimizer.lr"]
    assert mean > 0.7
    assert 0 < spread < 0.3
    assert 0.8 < sum(mean for mean, _ in shares.values()) <= 1.0  # the rest is what fields do together


def test_a_log_range_counts_on_its_own_scale(space: Space) -> None:
    """On the raw scale nine tenths of 1e-5..1 lie above 0.1, where nothing is told of rates below."""
    trials = _trials(space, 40)
    low_half = [
        Trial(t.number, t.initial, "", scores=(Score(1, 0.0, 0.0, float(float(t.point["optimizer.lr"]) < 1e-3), 0.0),))
        for t in trials
    ]
    assert importances(space, low_half)["optimizer.lr"][0] > 0.6


def test_too_few_or_equal_trials_tell_nothing(space: Space) -> None:
    assert importances(space, _trials(space, 3)) == {}
    equal = [Trial(n, space.sample(0, n), "", scores=(Score(1, 0.0, 0.0, 0.5, 0.0),)) for n in range(8)]
    assert importances(space, equal) == {}
