import os
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint import HASH_FILE, STATE_FILE, CheckpointError, load_checkpoint, save_checkpoint


@pytest.fixture
def state() -> dict[str, Any]:
    return {"epoch": 3, "model": {"w": torch.arange(6.0).reshape(2, 3)}, "records": [{"loss": 0.5, "name": "a"}]}


def test_a_state_comes_back_as_it_was(tmp_path: Path, state: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "one", state)
    loaded = load_checkpoint(tmp_path / "one")
    assert torch.equal(loaded["model"].pop("w"), state["model"].pop("w"))
    assert loaded == state
    assert {path.name for path in (tmp_path / "one").iterdir()} == {STATE_FILE, HASH_FILE}


def test_a_later_state_takes_the_place_of_an_earlier_one(tmp_path: Path, state: dict[str, Any]) -> None:
    save_checkpoint(tmp_path, state)
    save_checkpoint(tmp_path, {**state, "epoch": 4})
    assert load_checkpoint(tmp_path)["epoch"] == 4


@pytest.mark.parametrize("name", [STATE_FILE, HASH_FILE])
def test_a_checkpoint_that_was_never_finished_is_refused(tmp_path: Path, state: dict[str, Any], name: str) -> None:
    save_checkpoint(tmp_path, state)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"holds no whole checkpoint.*{name}"):
        load_checkpoint(tmp_path)


def test_an_altered_or_torn_checkpoint_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    save_checkpoint(tmp_path, state)
    content = (tmp_path / STATE_FILE).read_bytes()
    for broken in (content[:-10], content[:50] + b"x" + content[51:]):
        (tmp_path / STATE_FILE).write_bytes(broken)
        with pytest.raises(CheckpointError, match="it was written as"):
            load_checkpoint(tmp_path)


def test_a_write_that_fails_leaves_the_old_checkpoint_whole(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, state)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {**state, "epoch": 4})
    assert load_checkpoint(tmp_path)["epoch"] == 3


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "evil", {"epoch": _Evil(tmp_path / "ran")})
    with pytest.raises(CheckpointError, match="holds no training state"):
        load_checkpoint(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()
