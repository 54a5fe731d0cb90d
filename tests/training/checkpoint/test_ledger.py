from pathlib import Path

import pytest

from training.checkpoint.folder import Folder
from training.checkpoint.ledger import Ledger, recoveries


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Folder(str(tmp_path)))


def _start(
    ledger: Ledger, attempt: int, epoch: int, step: int, redone: int | None, world_size: int = 1, owner: str = "one"
) -> None:
    ledger.add(
        "started", attempt, owner=owner, world_size=world_size, epoch=epoch, step=step, steps_redone=redone, rejected={}
    )


def test_an_undisturbed_training_has_no_recovery(ledger: Ledger) -> None:
    _start(ledger, 1, 1, 0, None)
    ledger.add("first_step", 1, seconds_since_last_step=None)
    ledger.add("finished", 1)
    assert recoveries(ledger.events()) == []


def test_each_recovery_says_what_failed_and_what_it_cost(ledger: Ledger) -> None:
    _start(ledger, 1, 1, 0, None, world_size=2)
    ledger.add("failed", 1, cause="worker 1: it died")
    _start(ledger, 2, 1, 4, 3)
    ledger.add("first_step", 2, seconds_since_last_step=8.5)
    _start(ledger, 3, 2, 0, 0, world_size=2, owner="other")
    first, second = recoveries(ledger.events())
    assert (first.cause, first.steps_redone, first.seconds_to_next_step) == ("worker 1: it died", 3, 8.5)
    assert (first.attempt, first.epoch, first.step, first.world_size) == (2, 1, 4, 1)
    assert second.cause == "killed: it ended without a word"
    assert second.seconds_to_next_step is None
    assert second.world_size == 2


def test_what_was_trained_to_its_end_was_not_killed(ledger: Ledger) -> None:
    """Its evaluation failed: the same command comes again, and has nothing left to train."""
    _start(ledger, 1, 1, 0, None)
    ledger.add("finished", 1)
    _start(ledger, 2, 4, 0, 0)
    ledger.add("finished", 2)
    assert recoveries(ledger.events()) == []


def test_workers_that_became_more_by_their_own_command_were_not_killed(ledger: Ledger) -> None:
    _start(ledger, 1, 1, 0, None, world_size=1)
    _start(ledger, 2, 1, 4, 3, world_size=2)
    (grown,) = recoveries(ledger.events())
    assert grown.cause == "resized: 2 workers in place of 1"


def test_an_event_that_cannot_be_written_waits_for_the_next(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: Folder, name: str, content: bytes) -> str:
        raise TimeoutError(110, "Connection timed out")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", away)
        _start(ledger, 1, 1, 0, None)
    assert "Connection timed out" in caplog.text
    assert ledger.events() == []
    ledger.add("finished", 1)
    assert [event["kind"] for event in ledger.events()] == ["started", "finished"]


def test_events_come_in_the_order_they_were_written(ledger: Ledger) -> None:
    for attempt in range(1, 30):
        ledger.add("started" if attempt % 2 else "failed", attempt)
    assert [event["attempt"] for event in ledger.events()] == list(range(1, 30))
