"""Stretches of a trial on workers of their own. Here they train in this process: what is tried is what is kept."""

import dataclasses
from pathlib import Path

import pytest

from tests.toys import image_recipe
from training.launch.job import Compute, Trained, TrainJob
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.task import Source
from training.tuning.segment import Workplace, load_state, train_together


class Trainings:
    """run_training() in this process, cut off after `cut_after` epochs of the first one."""

    def __init__(self, cut_after: int | None = None) -> None:
        self.began_at: list[int] = []
        self._cut_after = cut_after

    def __call__(self, job: TrainJob, compute: Compute) -> Trained:
        found = RunFolder(compute.folder(job)).store.newest()
        self.began_at.append(found.checkpoint.epoch if found else 1)
        cut, self._cut_after = self._cut_after, None
        trained = run_training(
            dataclasses.replace(job, until_epoch=cut or job.until_epoch, run_id=""),
            dataclasses.replace(compute, workers=1, local=True),
        )
        if cut:
            raise KeyboardInterrupt
        return trained


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(workers=2, storage=tmp_path / "workers")


def _stretch(
    monkeypatch: pytest.MonkeyPatch, trainings: Trainings, workplace: Workplace, into: Path, **more: object
) -> list[int]:
    monkeypatch.setattr("training.launch.run.run_training", trainings)
    start, until = more.get("start"), more.get("until", 4)
    assert isinstance(until, int) and (start is None or isinstance(start, Path))
    recipe = image_recipe()
    return [record.epoch for record in train_together(recipe, Source(), workplace, "run", start, until, into)]


def test_a_stretch_that_was_cut_off_goes_on_from_its_last_epoch(
    monkeypatch: pytest.MonkeyPatch, workplace: Workplace, tmp_path: Path
) -> None:
    trainings = Trainings(cut_after=2)
    with pytest.raises(KeyboardInterrupt):
        _stretch(monkeypatch, trainings, workplace, tmp_path / "trial" / "end")
    assert _stretch(monkeypatch, trainings, workplace, tmp_path / "trial" / "end") == [1, 2, 3, 4]
    assert trainings.began_at == [1, 3]
    assert load_state(tmp_path / "trial" / "end")["position"] == [5, 0]


def test_a_stretch_begins_with_the_state_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, workplace: Workplace, tmp_path: Path
) -> None:
    trainings, half = Trainings(), tmp_path / "trial" / "half"
    assert _stretch(monkeypatch, trainings, workplace, half, until=2) == [1, 2]
    assert _stretch(monkeypatch, trainings, workplace, tmp_path / "trial" / "end", start=half) == [3, 4]
    assert trainings.began_at == [1, 3]


def test_what_another_stretch_left_behind_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, workplace: Workplace, tmp_path: Path
) -> None:
    """A loser of a population that was cut off, and then took a winner's place."""
    trainings, winner = Trainings(), tmp_path / "winner" / "half"
    _stretch(monkeypatch, trainings, workplace, winner, until=1)
    cut = Trainings(cut_after=3)
    with pytest.raises(KeyboardInterrupt):
        _stretch(monkeypatch, cut, workplace, tmp_path / "loser" / "end")
    assert _stretch(monkeypatch, cut, workplace, tmp_path / "loser" / "end", start=winner) == [2, 3, 4]
    assert cut.began_at == [1, 2]
