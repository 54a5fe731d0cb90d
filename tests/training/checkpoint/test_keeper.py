"""When a training is kept, and what its end says of that; the training itself is a toy in this process."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional

from tests.toys import image_recipe, images
from training.checkpoint import keeper as keeper_module
from training.checkpoint.folder import Folder
from training.checkpoint.keeper import Keeper
from training.checkpoint.saver import AsyncSaver
from training.checkpoint.store import Checkpoint, CheckpointError, CheckpointStore, Claim, SupersededError
from training.loop.fit import fit
from training.loop.losses import Loss
from training.loop.training import Training
from training.models.architecture import build
from training.recipe import override
from training.task import Source

EPOCHS, STEPS = 3, 6
NEVER_S = 1e9


class _Recorded(CheckpointStore):
    """Remembers where it kept; has no more room from `full_from` on, and is overtaken at `overtaken_at`."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.kept: list[tuple[int, int]] = []
        self.full_from = self.overtaken_at = (99, 0)

    def save(self, state: Mapping[str, Any], epoch: int, step: int, claim: Claim, world_size: int) -> Checkpoint:
        if (epoch, step) >= self.full_from:
            raise OSError(28, "No space left on device")
        if (epoch, step) >= self.overtaken_at:
            self.begin_attempt()
            self.overtaken_at = (99, 0)
        made = super().save(state, epoch, step, claim, world_size)
        self.kept.append((epoch, step))
        return made


@pytest.fixture
def store(tmp_path: Path) -> _Recorded:
    return _Recorded(Folder(str(tmp_path)))


def _train(store: CheckpointStore, step_s: float = 0.0, **when: Any) -> Training:
    task, recipe = images(Source()), override(image_recipe(), [f"epochs={EPOCHS}"])

    def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        time.sleep(step_s)
        return functional.cross_entropy(logits, labels)

    with AsyncSaver(store, store.begin_attempt(), world_size=1) as saver:
        keeper = Keeper(saver, **{"every_s": NEVER_S, "every_epochs": 1, **when})
        slow: Loss = loss
        return fit(
            recipe, build(recipe.architecture, task.encoding), task.encoding, task.splits["train"], task.splits["val"],
            loss=slow, watchers=[keeper],
        )  # fmt: skip


def test_a_training_is_kept_after_each_epoch(store: _Recorded) -> None:
    _train(store)
    assert store.kept == [(2, 0), (3, 0), (4, 0)]


def test_a_training_is_kept_after_every_other_epoch_and_at_its_end(store: _Recorded) -> None:
    _train(store, every_epochs=2)
    assert store.kept == [(3, 0), (4, 0)]


def test_a_training_is_kept_by_time_within_an_epoch(store: _Recorded) -> None:
    _train(store, step_s=0.02, every_s=0.05)
    assert [step for _, step in store.kept if step]


def test_a_training_whose_worker_will_be_gone_is_kept_in_quick_succession(
    store: _Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "URGENT_EVERY_S", 0.05)
    told: list[bool] = []

    def is_urgent() -> bool:
        told.append(len(told) >= STEPS)  # within the second epoch
        return told[-1]

    _train(store, step_s=0.02, is_urgent=is_urgent)
    within = [epoch for epoch, step in store.kept if step]
    assert 1 not in within
    assert within.count(2) >= 2


def test_a_training_whose_end_is_not_kept_has_not_ended(store: _Recorded) -> None:
    """Or an older state would pass for its end."""
    store.full_from = (EPOCHS + 1, 0)
    with pytest.raises(CheckpointError, match="No space left"):
        _train(store)
    assert store.kept == [(2, 0), (3, 0)]


def test_a_training_that_was_overtaken_stops_between_two_steps(store: _Recorded) -> None:
    store.overtaken_at = (2, 0)
    with pytest.raises(SupersededError, match="attempt 1 of the training"):
        _train(store, step_s=0.02)
    assert store.kept == []
