import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint.folder import Folder
from training.checkpoint.store import (
    MANIFEST_FILE,
    STATE_FILE,
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    Claim,
    SupersededError,
)


@pytest.fixture
def store(folder: Folder) -> CheckpointStore:
    return CheckpointStore(folder, keep=2)


def _state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"w": torch.full((2, 3), float(epoch))}, "records": [{"loss": 0.5, "name": "a"}]}


def _save(store: CheckpointStore, *epochs: int) -> list[str]:
    attempt = store.begin_attempt()
    return [store.save(_state(epoch), epoch, 0, attempt, world_size=1).name for epoch in epochs]


def _begin_to_write(folder: Folder, *epochs: int) -> list[str]:
    """As a kill leaves it."""
    names = [Checkpoint(epoch, 0, 1, 1, 0.0, {}).name for epoch in epochs]
    for name in names:
        folder.write(f"{name}/{STATE_FILE}", b"half of it")
    return names


def _checkpoints(folder: Folder) -> list[str]:
    return [name for name in folder.names() if name.startswith("epoch-")]


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
    assert store.passed_over == {}


def test_there_is_none_before_the_first(store: CheckpointStore) -> None:
    assert store.newest() is None
    store.begin_attempt()
    assert store.newest() is None


def test_the_last_ones_are_kept(store: CheckpointStore, folder: Folder) -> None:
    names = _save(store, 1, 2, 3, 4)
    assert _checkpoints(folder) == names[2:]


def test_what_was_passed_over_takes_no_place_of_what_is_kept(store: CheckpointStore, folder: Folder) -> None:
    """Killed while it wrote 8, and again while it wrote 9; 3 was altered on the disk."""
    _, second = _save(store, 1, 2)
    third, *_ = _begin_to_write(folder, 3, 8, 9)
    folder.write(f"{third}/{MANIFEST_FILE}", folder.read(f"{second}/{MANIFEST_FILE}"))  # its hash is another
    assert _newest(store)["epoch"] == 2

    again = CheckpointStore(folder, keep=2)
    assert _newest(again)["epoch"] == 2
    (fourth,) = _save(again, 4)
    assert _checkpoints(folder) == [second, fourth]
    assert _newest(again)["epoch"] == 4


def test_a_write_that_failed_takes_no_place_of_what_is_kept(
    store: CheckpointStore, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = _save(store, 1)

    def full(name: str, content: bytes) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("training.checkpoint.folder.Folder.write", lambda self, *a: full(*a))
        store.save(_state(2), 2, 0, store.begin_attempt(), 1)
    third = store.save(_state(3), 3, 0, store.begin_attempt(), 1).name
    assert _checkpoints(folder) == [first, third]


def test_what_cannot_be_removed_costs_no_checkpoint(
    store: CheckpointStore, folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Folder, name: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("training.checkpoint.folder.Folder.remove", refuse)
        names = _save(store, 1, 2, 3)
    assert _checkpoints(folder) == names
    assert f"{names[0]} could not be removed" in caplog.text
    (fourth,) = _save(store, 4)
    assert _checkpoints(folder) == [names[2], fourth]


def test_steps_within_an_epoch_come_in_their_order(store: CheckpointStore) -> None:
    attempt = store.begin_attempt()
    for epoch, step in ((1, 999), (1, 1000), (2, 5), (10, 0)):
        store.save({"at": [epoch, step]}, epoch, step, attempt, 1)
        assert _newest(store) == {"at": [epoch, step]}


@pytest.mark.parametrize("damage", ["torn", "altered", "no state", "no manifest", "manifest torn"])
def test_a_torn_or_altered_one_is_passed_over_for_the_one_before(
    store: CheckpointStore, folder: Folder, damage: str
) -> None:
    _, last = _save(store, 1, 2)
    state, manifest = f"{last}/{STATE_FILE}", f"{last}/{MANIFEST_FILE}"
    content = folder.read(state)
    if damage == "torn":
        folder.write(state, content[:-10])
    elif damage == "altered":
        folder.write(state, content[:50] + bytes([content[50] ^ 1]) + content[51:])
    elif damage == "no state":
        folder.remove(state)
    elif damage == "no manifest":
        folder.remove(manifest)
    else:
        folder.write(manifest, folder.read(manifest)[:20])
    assert _newest(store)["epoch"] == 1
    assert list(store.passed_over) == [last]
    assert last in store.passed_over[last]


@pytest.mark.parametrize("damage", ["torn", "altered", "gone"])
def test_parts_that_others_wrote_are_of_the_checkpoint(store: CheckpointStore, folder: Folder, damage: str) -> None:
    claim = store.begin_attempt()
    for epoch in (1, 2):
        parts = store.folder_of(Checkpoint(epoch, 0, claim.number, 2, 0.0, {}))
        shards = {f"part-{rank}": parts.write(f"part-{rank}", bytes([epoch]) * 9) for rank in range(2)}
        made = store.save(_state(epoch), epoch, 0, claim, 2, shards)
        assert made.is_sharded
    assert _newest(store)["epoch"] == 2
    if damage == "gone":
        parts.remove("part-1")
    else:
        parts.write("part-1", bytes([2]) * 8 if damage == "torn" else bytes([3]) * 9)
    assert _newest(store)["epoch"] == 1
    assert "part-1" in store.passed_over[made.name]


def test_a_state_that_its_manifest_does_not_name_is_passed_over(store: CheckpointStore, folder: Folder) -> None:
    _, last = _save(store, 1, 2)
    manifest = json.loads(folder.read(f"{last}/{MANIFEST_FILE}"))
    folder.write(f"{last}/{MANIFEST_FILE}", json.dumps({**manifest, "files": {}}).encode())
    assert _newest(store)["epoch"] == 1


def test_when_none_is_whole_all_are_named(store: CheckpointStore, folder: Folder) -> None:
    for name in _save(store, 1, 2):
        folder.write(f"{name}/{STATE_FILE}", b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: .*epoch-00002.*epoch-00001"):
        store.newest()


def test_a_kill_during_the_first_write_leaves_nothing_to_go_on_from(store: CheckpointStore, folder: Folder) -> None:
    names = _begin_to_write(folder, 1)
    assert store.newest() is None
    assert list(store.passed_over) == names
    _save(store, 1)
    assert _newest(store)["epoch"] == 1


def test_a_store_that_does_not_answer_is_not_an_empty_one(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(store, 1)

    def away(self: Folder, name: str) -> bytes:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr("training.checkpoint.folder.Folder.read", away)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*timed out"):
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


def test_who_is_overtaken_while_it_writes_leaves_nothing_behind(
    store: CheckpointStore, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, write_by = store.begin_attempt(), Folder.write_by

    def overtaken(self: Folder, name: str, write: Any) -> str:
        if name.endswith(STATE_FILE):
            store.begin_attempt()
        return write_by(self, name, write)

    monkeypatch.setattr(Folder, "write_by", overtaken)
    with pytest.raises(SupersededError):
        store.save(_state(1), 1, 0, claim, 1)
    assert _checkpoints(folder) == []


def test_who_was_overtaken_does_not_overtake_in_its_turn(store: CheckpointStore) -> None:
    """Ray Train and torchrun start their workers again, whatever these ended with."""
    assert [store.begin_attempt("one").number for _ in range(2)] == [1, 2]
    assert store.begin_attempt("other").number == 3
    with pytest.raises(SupersededError, match=r"attempt 2 .* was overtaken by attempt 3"):
        store.begin_attempt("one")
    assert store.begin_attempt("other").number == 4
    assert store.begin_attempt("third").number == 5


def test_starts_at_the_same_moment_have_their_own_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4)
    seen = Folder.names

    def names(self: Folder, inside: str = "") -> list[str]:
        found = seen(self, inside)
        if not found:
            together.wait(10)  # all find that nobody has begun
        return found

    monkeypatch.setattr(Folder, "names", names)
    store = CheckpointStore(Folder(str(tmp_path)))
    with ThreadPoolExecutor(4) as threads:
        claims = list(threads.map(lambda _: store.begin_attempt(), range(4)))
    assert sorted(claim.number for claim in claims) == [1, 2, 3, 4]


def test_of_two_with_one_number_the_later_may_write(store: CheckpointStore, folder: Folder) -> None:
    """An object store lets both take it."""
    first = store.begin_attempt("one")
    folder.write("attempts/000001", b"other")
    with pytest.raises(SupersededError, match="the same command runs elsewhere"):
        store.save(_state(1), 1, 0, first, 1)
    store.save(_state(1), 1, 0, Claim(1, "other"), 1)


def test_what_has_ended_elsewhere_is_not_written_again(store: CheckpointStore, folder: Folder) -> None:
    claim = store.begin_attempt()
    folder.remove()
    with pytest.raises(SupersededError, match="ended elsewhere"):
        store.save(_state(1), 1, 0, claim, 1)
    assert folder.names() == []


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


def test_a_manifest_names_every_file_with_its_hash(store: CheckpointStore, folder: Folder) -> None:
    (name,) = _save(store, 1)
    manifest = json.loads(folder.read(f"{name}/{MANIFEST_FILE}"))
    assert set(manifest["files"]) == set(folder.names(name)) - {MANIFEST_FILE}
