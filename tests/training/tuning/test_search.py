"""What the schedulers and searchers decide, without a cluster; that they do it on one is tested in test_sweep.py."""

from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tests.toys import image_recipe
from training.tuning.ledger import Score, Trial
from training.tuning.method import Method
from training.tuning.queue import Queue
from training.tuning.search import METRIC, TIME, _Explore, _Halving, _TpeSearcher
from training.tuning.space import Space, parse_space


class Started:
    def __init__(self, number: int) -> None:
        self.trial_id, self._number = f"id-{number}", number

    def __str__(self) -> str:
        return str(self._number)


def past(number: int, *accuracies: float) -> Trial:
    scores = tuple(Score(epoch, 0.0, 0.0, accuracy, 0.0) for epoch, accuracy in enumerate(accuracies, start=1))
    return Trial(number, {"optimizer.lr": 0.01}, "", "finished", scores)


def decide(scheduler: Any, number: int, epoch: int, accuracy: float) -> str:
    trial = Started(number)
    scheduler.on_trial_add(None, trial)
    decision: str = scheduler.on_trial_result(None, trial, {TIME: epoch, METRIC: accuracy})
    return decision


@pytest.fixture
def space() -> Space:
    return parse_space(image_recipe(), ["optimizer.lr=log:1e-4..1e-1"])


def test_the_first_of_a_sweep_goes_on_and_a_worse_one_is_stopped() -> None:
    halving = _Halving(Method("asha"), 9, ())
    assert decide(halving, 0, 1, 0.5) == TrialScheduler.CONTINUE
    assert decide(halving, 1, 1, 0.4) == TrialScheduler.STOP
    assert decide(halving, 2, 1, 0.6) == TrialScheduler.CONTINUE


def test_trials_of_an_earlier_process_are_compared_with() -> None:
    """A resumed sweep would otherwise let its first trial go on, however bad."""
    over = [past(0, 0.8, 0.85, 0.9), past(1, 0.6), past(2, 0.5)]
    assert decide(_Halving(Method("asha"), 9, over), 3, 1, 0.65) == TrialScheduler.STOP
    assert decide(_Halving(Method("asha"), 9, over), 3, 3, 0.89) == TrialScheduler.STOP
    assert decide(_Halving(Method("asha"), 9, over), 3, 1, 0.9) == TrialScheduler.CONTINUE


def test_brackets_of_hyperband_begin_to_stop_later_and_are_the_trials_own() -> None:
    def bracket(number: int, seed: int = 0) -> int:
        halving = _Halving(Method("hyperband", seed=seed), 27, ())
        halving.on_trial_add(None, Started(number))  # type: ignore[arg-type]
        return int(halving._brackets.index(halving._trial_info[f"id-{number}"]))

    drawn = [bracket(number) for number in range(60)]
    assert set(drawn) == {0, 1, 2}
    assert drawn.count(0) > drawn.count(2)
    assert drawn == [bracket(number) for number in range(60)]
    assert drawn != [bracket(number, seed=1) for number in range(60)]


def test_a_copier_explores_from_the_winners_point(space: Space) -> None:
    explore = _Explore(space, seed=0)
    config = {"trial": {"number": 4, "point": {"optimizer.lr": 0.01}}}
    moved = [explore(config)["trial"]["point"]["optimizer.lr"] for _ in range(40)]
    assert {0.008, 0.012} <= set(moved)
    assert config["trial"]["point"] == {"optimizer.lr": 0.01}


def test_tpe_goes_on_with_cut_off_trials_then_chooses(space: Space) -> None:
    over = [past(number, 0.1 * number) for number in range(3)]
    searcher = _TpeSearcher(Method("tpe"), space, Queue({3: {"optimizer.lr": 0.005}}, (4, 5), over))
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert first == {"trial": {"number": 3, "point": {"optimizer.lr": 0.005}}}
    assert second is not None
    assert second["trial"]["number"] == 4
    searcher.on_trial_result("a", {METRIC: 0.9})
    searcher.on_trial_result("a", {METRIC: 0.7})
    searcher.on_trial_complete("a", {METRIC: 0.7})
    searcher.on_trial_complete("b", {"failed": "it broke"})
    states = [(trial.state.name, trial.value) for trial in searcher._study._study.trials]
    assert states[-2:] == [("COMPLETE", 0.9), ("FAIL", None)]
    assert len(states) == 5
