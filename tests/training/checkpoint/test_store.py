import json
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint.folder import Folder
from training.checkpoint.store import MANIFEST_FILE, STATE_FILE, CheckpointError, CheckpointStore, SupersededError


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Folder(str(tmp_path)), keep=2)


def _state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"w": torch.full((2, 3), float(epoch))}, "records": [{"loss": 0.5, "name": "a"}]}


def _save(store: CheckpointStore, *epochs: int) -> list[str]:
    attempt = store.begin_attempt()
    return [store.save(_state(epoch), epoch, 0, attempt, world_size=1).name for epoch in epochs]


def _newest(store: CheckpointStore) -> dict[str, Any]:
    found = store.newest()
    assert found is not None
    return found.state


def test_the_newest_state_comes_back_as_it_was(store: CheckpointStore) -> None:
    _save(store, 1, 2, 3)
    found = store.newest()
    assert found is not None
    assert torch.equal(found.state.pop("model")["w"], _state(3)["model"]["w"])
    assert found.state == {"epoch": 3, "records": [{"loss": 0.5, "name": "a"}]}
    assert (found.checkpoint.epoch, found.checkpoint.step, found.checkpoint.world_size) == (3, 0, 1)
    assert found.rejected == {}


def test_there_is_none_before_the_first(store: CheckpointStore) -> None:
    assert store.newest() is None
    store.begin_attempt()
    assert store.newest() is None


def test_the_last_ones_are_kept(store: CheckpointStore, tmp_path: Path) -> None:
    names = _save(store, 1, 2, 3, 4)
    assert sorted(path.name for path in tmp_path.glob("epoch-*")) == names[2:]


def test_steps_within_an_epoch_come_in_their_order(store: CheckpointStore) -> None:
    attempt = store.begin_attempt()
    for epoch, step in ((1, 999), (1, 1000), (2, 5), (10, 0)):
        store.save({"at": [epoch, step]}, epoch, step, attempt, 1)
        assert _newest(store) == {"at": [epoch, step]}


@pytest.mark.parametrize("damage", ["torn", "altered", "no state", "no manifest", "manifest torn"])
def test_a_torn_or_altered_one_is_passed_over_for_the_one_before(
    store: CheckpointStore, tmp_path: Path, damage: str
) -> None:
    _, last = _save(store, 1, 2)
    state, manifest = tmp_path / last / STATE_FILE, tmp_path / last / MANIFEST_FILE
    content = state.read_bytes()
    if damage == "torn":
        state.write_bytes(content[:-10])
    elif damage == "altered":
        state.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    elif damage == "no state":
        state.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_bytes(manifest.read_bytes()[:20])
    found = store.newest()
    assert found is not None
    assert found.state["epoch"] == 1
    assert list(found.rejected) == [last]
    assert last in found.rejected[last]


def test_when_none_is_whole_all_are_named(store: CheckpointStore, tmp_path: Path) -> None:
    for name in _save(store, 1, 2):
        (tmp_path / name / STATE_FILE).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: .*epoch-00002.*epoch-00001"):
        store.newest()


def test_who_was_overtaken_writes_no_more(store: CheckpointStore) -> None:
    first = store.begin_attempt()
    store.save(_state(1), 1, 0, first, 1)
    second = store.begin_attempt()
    with pytest.raises(SupersededError, match=r"attempt 1 .* was overtaken by attempt 2"):
        store.save(_state(2), 2, 0, first, 1)
    assert _newest(store)["epoch"] == 1
    store.save(_state(3), 3, 0, second, 1)
    assert _newest(store)["epoch"] == 3


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_runs_no_code(store: CheckpointStore, tmp_path: Path) -> None:
    made = store.save({"epoch": _Evil(tmp_path / "ran")}, 1, 0, store.begin_attempt(), 1)
    with pytest.raises(CheckpointError, match="holds no training state"):
        store.load(made.name)
    assert not (tmp_path / "ran").exists()


def test_a_manifest_names_every_file_with_its_hash(store: CheckpointStore, tmp_path: Path) -> None:
    (name,) = _save(store, 1)
    manifest = json.loads((tmp_path / name / MANIFEST_FILE).read_bytes())
    assert set(manifest["files"]) == {path.name for path in (tmp_path / name).iterdir()} - {MANIFEST_FILE}
