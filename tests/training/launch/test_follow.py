"""The bar of a training that runs elsewhere."""

import dataclasses
import io
import sys
import time
from pathlib import Path

import pytest

from training.launch.follow import can_follow, followed
from training.launch.run_folder import RunFolder
from training.observe.bar import Progress

EARLY = Progress(epoch=1, epochs=4, step=3, steps=24, loss=0.5, samples_per_s=1234.0)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _begin(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """In place of the output; not in a fixture, after which pytest puts its own there."""
    monkeypatch.setattr("training.launch.follow.SHOWN_EVERY_S", 0.01)
    made = _Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    return made


def _wait_for(terminal: _Terminal, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in terminal.getvalue():
        assert time.monotonic() < deadline, f"{text!r} is not in {terminal.getvalue()!r}"
        time.sleep(0.01)


def test_what_a_worker_reports_is_drawn_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _begin(monkeypatch)
    folder = RunFolder(str(tmp_path))
    with followed(folder):
        RunFolder(str(tmp_path)).report(EARLY)
        _wait_for(terminal, "3/24")
        print("epoch 1 is over")
    drawn = terminal.getvalue()
    # A line has its own place: the bar before it was wiped out.
    assert drawn.split("epoch 1 is over\n")[0].endswith("\r")
    assert drawn.endswith("\r")
    assert sys.stdout is terminal


def test_what_an_earlier_start_reported_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _begin(monkeypatch)
    folder = RunFolder(str(tmp_path))
    folder.report(EARLY)
    with followed(folder):
        time.sleep(0.1)
        assert terminal.getvalue() == ""
        folder.report(dataclasses.replace(EARLY, step=4))
        _wait_for(terminal, "4/24")


def test_there_is_nothing_to_draw_on_in_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not can_follow(RunFolder(str(tmp_path)))


def test_a_training_is_not_followed_through_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _begin(monkeypatch)
    assert can_follow(RunFolder(str(tmp_path)))
    assert not can_follow(RunFolder("memory://bucket/training"))
