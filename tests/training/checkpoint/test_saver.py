import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint.folder import Folder
from training.checkpoint.saver import AsyncSaver
from training.checkpoint.store import Checkpoint, CheckpointStore, SupersededError


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Folder(str(tmp_path)))


class _Slow(CheckpointStore):
    """Writes when it is let."""

    let = threading.Event()

    def save(self, state: Mapping[str, Any], epoch: int, step: int, attempt: int, world_size: int) -> Checkpoint:
        assert self.let.wait(10)
        return super().save(state, epoch, step, attempt, world_size)


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
    saver.close()


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
    saver.close()


def test_a_place_that_stays_full_ends_it(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = AsyncSaver(store, store.begin_attempt(), world_size=1)
    monkeypatch.setattr(store, "save", lambda *a: _raise(OSError(28, "No space left on device")))
    for epoch in (1, 2, 3):
        saver.save({}, epoch, 0)
    with pytest.raises(OSError, match="No space left"):
        saver.settle()
    saver.close()


def test_who_was_overtaken_is_told_at_once(store: CheckpointStore) -> None:
    saver = AsyncSaver(store, store.begin_attempt(), world_size=1)
    store.begin_attempt()
    saver.save({}, 1, 0)
    with pytest.raises(SupersededError):
        saver.settle()
    saver.close()


def _raise(error: Exception) -> Any:
    raise error
