import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toys import image_recipe, images
from training.loop.training import Training
from training.loop.worker import Worker
from training.models.architecture import Architecture, build
from training.recipe import Optimizer, Recipe, override
from training.task import Source
from training.tuning.segment import Workplace, load_state, weights_of
from training.tuning.space import Point, settings
from training.tuning.trial import Report, TrialJob, newest_checkpoint, run_trial, weights_digest

POINT = {"optimizer.lr": 0.01}


def job(recipe: Recipe | None = None, copying: bool = False) -> TrialJob:
    return TrialJob(recipe or image_recipe(), Source(), Workplace(), copying=copying)


class Stop(BaseException):
    """What ends a trial from within a report, as Ray Tune does."""


class Heard:
    def __init__(self, stop_after: int = 99) -> None:
        self.reports: list[Report] = []
        self._stop_after = stop_after

    def __call__(self, report: Report) -> None:
        self.reports.append(report)
        if report.score.epoch >= self._stop_after:
            raise Stop

    @property
    def epochs(self) -> list[int]:
        return [report.score.epoch for report in self.reports]


def run(
    folder: Path, number: int = 1, point: Point = POINT, given: Path | None = None, stop_after: int = 99, **more: Any
) -> Heard:
    heard = Heard(stop_after)
    with contextlib.suppress(Stop):
        run_trial(job(**more), number, point, folder, given, "", heard)
    return heard


def test_a_trial_reports_every_epoch_with_a_checkpoint(tmp_path: Path) -> None:
    heard = run(tmp_path)
    assert heard.epochs == [1, 2, 3, 4]
    assert all(report.last_epoch == 4 for report in heard.reports)
    assert heard.reports[-1].score.val_accuracy > 0.9
    assert heard.reports[-1].checkpoint == newest_checkpoint(tmp_path)
    assert len(list(tmp_path.glob("epoch-*"))) == 2


def test_a_trial_that_was_cut_off_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, first = run(tmp_path / "whole"), run(tmp_path / "cut", stop_after=2)
    second = run(tmp_path / "cut")
    assert (first.epochs, second.epochs) == ([1, 2], [3, 4])
    accuracies = [report.score.val_accuracy for report in (*first.reports, *second.reports)]
    assert accuracies == [report.score.val_accuracy for report in whole.reports]
    assert _digest(tmp_path / "cut") == _digest(tmp_path / "whole")


def test_a_trial_that_had_ended_trains_nothing_more(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path).epochs == []


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run(tmp_path, stop_after=3)
    (torn,) = (tmp_path / "epoch-00003").rglob("state.pt")
    torn.write_bytes(b"torn")
    assert newest_checkpoint(tmp_path) == tmp_path / "epoch-00002"
    assert run(tmp_path).epochs == [3, 4]


def test_a_trial_goes_on_from_anothers_checkpoint_and_says_so(tmp_path: Path) -> None:
    winner = run(tmp_path / "winner", number=1, stop_after=3, copying=True)
    run(tmp_path / "loser", number=2, point={"optimizer.lr": 1e-5}, stop_after=2, copying=True)
    given = winner.reports[-1].checkpoint
    heard = run(tmp_path / "loser", number=2, point={"optimizer.lr": 0.02}, given=given, copying=True)
    assert heard.epochs == [4]
    exploit = heard.reports[0].exploit
    assert exploit is not None
    assert (exploit.source, exploit.epoch, exploit.point) == (1, 3, {"optimizer.lr": 0.02})
    assert exploit.digest == winner.reports[-1].score.digest
    assert heard.reports[0].score.val_accuracy > 0.9


def test_an_exploit_is_said_once_and_a_pause_is_none(tmp_path: Path) -> None:
    winner = run(tmp_path / "winner", number=1, stop_after=1)
    taken = run(tmp_path / "loser", number=2, given=winner.reports[-1].checkpoint, stop_after=3)
    assert [report.exploit is not None for report in taken.reports] == [True, False]
    paused = run(tmp_path / "loser", number=2, given=taken.reports[-1].checkpoint)
    assert paused.epochs == [4]
    assert paused.reports[0].exploit is None


def test_what_a_trial_had_beyond_the_copied_epoch_is_forgotten(tmp_path: Path) -> None:
    winner = run(tmp_path / "winner", number=1, stop_after=1)
    run(tmp_path / "loser", number=2, stop_after=4)
    run(tmp_path / "loser", number=2, given=winner.reports[-1].checkpoint, stop_after=2)
    assert newest_checkpoint(tmp_path / "loser") == tmp_path / "loser" / "epoch-00002"
    assert run(tmp_path / "loser", number=2).epochs == [3, 4]


def _digest(folder: Path) -> str:
    newest = newest_checkpoint(folder)
    assert newest is not None
    return weights_digest(weights_of(load_state(newest)))


def test_the_new_learning_rate_follows_the_same_curve(tmp_path: Path) -> None:
    """A training by 0.01 that goes on by 0.03 has, to its end, three times the rates that it would have had."""
    usual = image_recipe()
    heard = Heard(2)
    with pytest.raises(Stop):
        run_trial(job(usual), 1, POINT, tmp_path, None, "", heard)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    rates = {lr: _rates(override(usual, settings({"optimizer.lr": lr})), load_state(checkpoint)) for lr in (0.01, 0.03)}
    assert rates[0.03] == pytest.approx([3 * rate for rate in rates[0.01]])
    assert rates[0.01][0] > rates[0.01][1] >= 0


def _rates(recipe: Recipe, state: dict[str, Any]) -> list[float]:
    from training.tuning.segment import train_alone

    seen = []
    train_alone(recipe, Source(), Workplace(), state, lambda record, state: seen.append(record.learning_rate))
    return seen


def test_decay_and_momentum_are_the_new_recipes_and_biases_stay_undecayed(tmp_path: Path) -> None:
    before = dataclasses.replace(
        image_recipe(),
        architecture=Architecture("tests.toys:dense"),
        optimizer=Optimizer("sgd", lr=0.05, weight_decay=0.01, momentum=0.9),
    )
    heard = Heard(1)
    with pytest.raises(Stop):
        run_trial(job(before), 1, {"optimizer.lr": 0.05}, tmp_path, None, "", heard)
    assert heard.reports[0].checkpoint
    after = dataclasses.replace(before, optimizer=Optimizer("sgd", lr=0.05, weight_decay=0.5, momentum=0.7))
    task = images(Source())
    training = Training(after, build(after.architecture, task.encoding), 6, Worker())
    kept = load_state(heard.reports[0].checkpoint)
    training.restore(kept)
    groups = training.optimizer.param_groups
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.5]
    assert {group["momentum"] for group in groups} == {0.7}
    assert training.optimizer.state  # the moments stay


def test_a_digest_tells_weights_apart() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
    assert weights_digest(weights) == weights_digest(dict(reversed(weights.items())))
    assert weights_digest(weights) == weights_digest({**weights, "a": weights["a"].t().contiguous().t()})
    assert weights_digest(weights) != weights_digest({**weights, "a": weights["a"] + 1e-6})
    assert weights_digest(weights) != weights_digest({**weights, "a": weights["a"].reshape(3, 2)})


def test_a_trial_names_what_it_fails_of(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such"):
        run(tmp_path, recipe=dataclasses.replace(image_recipe(), architecture=Architecture("no such")))
