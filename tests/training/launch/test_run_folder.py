from pathlib import Path

import pytest

from training.checkpoint.folder import Folder
from training.checkpoint.store import SupersededError
from training.launch.run_folder import RunFolder
from training.loop.worker import Worker
from training.observe.bar import Progress


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path))


def test_a_word_to_stop_reaches_workers_that_are_still_to_start(folder: RunFolder) -> None:
    """SIGTERM comes while they start, or start again."""
    folder.ask_to_stop("one")
    folder.begin_attempt(Worker(), "one")
    assert folder.is_asked_to_stop("one")


def test_a_word_to_stop_is_of_one_command(folder: RunFolder) -> None:
    """Not of the one that goes on with what was stopped, nor of one that overtook it."""
    folder.begin_attempt(Worker(), "one")
    folder.ask_to_stop("one")
    folder.begin_attempt(Worker(), "other")
    assert not folder.is_asked_to_stop("other")


def test_a_storage_that_does_not_answer_is_asked_again(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Folder, inside: str = "") -> list[str]:
        raise TimeoutError(110, "Connection timed out")

    folder.ask_to_stop("one")
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "names", away)
        assert not folder.is_asked_to_stop("one")
    assert folder.is_asked_to_stop("one")


def test_a_run_that_cannot_be_read_is_not_taken_for_none(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.run_id() is None
    folder.remember_run("abc")
    assert folder.run_id() == "abc"

    def away(self: Folder, name: str) -> bytes:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(Folder, "read", away)
    with pytest.raises(TimeoutError):
        folder.run_id()


def test_a_command_that_was_overtaken_does_not_begin_again(folder: RunFolder) -> None:
    assert folder.begin_attempt(Worker(), "one").claim.number == 1
    assert folder.begin_attempt(Worker(), "other").claim.number == 2
    with pytest.raises(SupersededError):
        folder.begin_attempt(Worker(), "one")


def test_of_those_whose_memory_ran_out_the_last_word_holds(folder: RunFolder) -> None:
    assert folder.begin_attempt(Worker(), "one").micro_batch == 0
    folder.ledger.add("failed", 1, cause="worker 1 died")
    for micro_batch in (10, 5):
        folder.ledger.add("failed", 1, cause="out of memory", micro_batch=micro_batch)
    assert folder.begin_attempt(Worker(), "one").micro_batch == 5


def test_the_progress_that_was_reported_last_is_told(folder: RunFolder) -> None:
    assert folder.progress() is None
    for step, loss in ((3, None), (4, 0.5)):
        told = Progress(epoch=1, epochs=4, step=step, steps=24, loss=loss, samples_per_s=10.0)
        folder.report(told)
        assert folder.progress() == told
