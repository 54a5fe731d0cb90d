import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint.folder import Folder
from training.checkpoint.saver import AsyncSaver
from training.checkpoint.store import Checkpoint, CheckpointError, CheckpointStore, Claim, SupersededError


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Folder(str(tmp_path)))


class _Slow(CheckpointStore):
    """Writes when it is let."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.let = threading.Event()

    def save(self, state: Mapping[str, Any], epoch: int, step: int, claim: Claim, world_size: int) -> Checkpoint:
        assert self.let.wait(10)
        return super().save(state, epoch, step, claim, world_size)


def test_what_is_written_is_the_state_as_it_was_when_it_was_asked_for(tmp_path: Path) -> None:
    store = _Slow(Folder(str(tmp_path)))
    saver = AsyncSaver(store, store.begin_attempt(), world_size=1)
    weights = torch.zeros(3)
    saver.save({"model": {"w": weights}, "list": [weights], "records": []}, 1, 0)
    assert saver.busy
    weights += 1  # training goes on meanwhile
    store.let.set()
    saver.settle()
    assert not saver.busy
    found = store.newest()
    assert found is not None
    assert torch.equal(found.state["model"]["w"], torch.zeros(3))
    assert torch.equal(found.state["list"][0], torch.zeros(3))


def test_a_place_that_is_full_for_a_moment_costs_no_training(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saver = AsyncSaver(store, store.begin_attempt(), world_size=1)
    real, failures = store.save, [OSError(28, "No space left on device")] * 2
    monkeypatch.setattr(store, "save", lambda *a: _raise(failures.pop()) if failures else real(*a))
    for epoch in (1, 2, 3):
        saver.save({"epoch": epoch}, epoch, 0)
    saver.settle()
    assert "No space left" in caplog.text
    found = store.newest()
    assert found is not None
    assert found.state == {"epoch": 3}


def test_a_place_that_stays_full_ends_it(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = AsyncSaver(store, store.begin_attempt(), world_size=1)
    monkeypatch.setattr(store, "save", lambda *a: _raise(OSError(28, "No space left on device")))
    for epoch in (1, 2, 3):
        saver.save({}, epoch, 0)
    with pytest.raises(CheckpointError, match=r"cannot be kept in .*No space left.* run the same command"):
        saver.settle()


def test_a_place_that_is_full_at_the_end_fails_the_training(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept before is not what was trained."""
    saver = AsyncSaver(store, store.begin_attempt(), world_size=1)
    saver.save({}, 1, 0)
    saver.settle()
    monkeypatch.setattr(store, "save", lambda *a: _raise(OSError(28, "No space left on device")))
    saver.save({}, 2, 0)
    with pytest.raises(CheckpointError, match=r"cannot be kept in .*No space left"):
        saver.finish()


def test_who_was_overtaken_is_told_at_the_end_so_that_all_workers_come_there(store: CheckpointStore) -> None:
    saver = AsyncSaver(store, store.begin_attempt(), world_size=1)
    store.begin_attempt()
    saver.save({}, 1, 0)
    saver.settle()
    assert saver.overtaken
    saver.save({}, 2, 0)
    assert not saver.busy
    with pytest.raises(SupersededError, match=r"attempt 1 .* was overtaken by attempt 2"):
        saver.finish()


def test_a_saver_that_is_left_has_written_what_it_was_given(tmp_path: Path) -> None:
    store = _Slow(Folder(str(tmp_path)))
    with AsyncSaver(store, store.begin_attempt(), world_size=1) as saver:
        saver.save({}, 1, 0)
        threading.Timer(0.2, store.let.set).start()
    assert store.newest() is not None


def _raise(error: Exception) -> Any:
    raise error
