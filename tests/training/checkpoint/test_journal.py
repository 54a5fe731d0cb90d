"""What is noted of a training's steps and of its end; the training is a toy in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.toys import image_recipe, images
from training.checkpoint.folder import Folder
from training.checkpoint.journal import Journal, read_mark
from training.checkpoint.ledger import Ledger, recoveries
from training.checkpoint.store import Claim
from training.loop.batches import Batch
from training.loop.fit import fit
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.models.architecture import build
from training.observe.clock import StepClock
from training.recipe import override
from training.task import Source


class _Killed(Exception):  # noqa: N818
    pass


class _Kills(Watcher):
    """Ends the training without a word: before its first step, or after so many of them."""

    def __init__(self, after: int) -> None:
        self._left = after

    def begin(self, training: Training, clock: StepClock) -> None:
        if not self._left:
            raise _Killed

    def step(self, training: Training, batch: Batch) -> None:
        self._left -= 1
        if not self._left:
            raise _Killed


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Folder(str(tmp_path / "events")))


def _train(ledger: Ledger, mark: Path, attempt: int, start: Any = None, more: Sequence[Watcher] = ()) -> Training:
    task, recipe = images(Source()), override(image_recipe(), ["epochs=2"])
    module = build(recipe.architecture, task.encoding)
    journal = Journal(ledger, Claim(attempt, str(attempt)), mark, {})
    return fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"],
        start=start, watchers=[journal, *more],
    )  # fmt: skip


def _killed(ledger: Ledger, mark: Path, attempt: int, after: int) -> None:
    with pytest.raises(_Killed):
        _train(ledger, mark, attempt, more=[_Kills(after)])


def test_steps_that_were_lost_are_counted_once(ledger: Ledger, tmp_path: Path) -> None:
    """The second attempt is killed before it did a step: it lost none."""
    mark = tmp_path / "mark"
    _killed(ledger, mark, 1, after=4)
    _killed(ledger, mark, 2, after=0)
    _train(ledger, mark, 3)
    second, third = recoveries(ledger.events())
    assert (second.steps_redone, second.seconds_to_next_step) == (4, None)
    assert third.steps_redone == 0
    assert third.seconds_to_next_step is not None and third.seconds_to_next_step > 0


def test_a_mark_that_cannot_be_set_ends_no_training(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    assert _train(ledger, tmp_path / "mark", 1).finished
    assert read_mark(tmp_path / "mark") is None
    assert [event["kind"] for event in ledger.events()] == ["started", "first_step", "finished"]
