import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optimization.measure.exclusive import BusyError, exclusive, shared

HOLD = """
import sys, time
from pathlib import Path
from optimization.measure import exclusive
with getattr(exclusive, sys.argv[1])("the neighbour", folder=Path(sys.argv[2])):
    print("in", flush=True)
    sys.stdin.read()
print("out", flush=True)
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Another process that is inside of `exclusive` or `shared` until its standard input is closed."""
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, how, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@pytest.mark.parametrize("theirs", ["exclusive", "shared"])
def test_a_measurement_waits_a_bounded_time_and_says_for_whom(
    hold: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path, theirs: str
) -> None:
    neighbour = hold(theirs)
    who = f"process {neighbour.pid}, the neighbour" if theirs == "exclusive" else "what computes now"
    with (
        pytest.raises(BusyError, match=rf"a timing has waited 0 s for {who}: end it, or come back"),
        exclusive("a timing", wait_s=0.3, folder=tmp_path),
    ):
        pytest.fail("two were in at once")


def test_work_waits_for_a_measurement_and_goes_on_after_it(
    hold: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimization.measure.exclusive.SAY_AFTER_S", 0.05)
    neighbour, said = hold("exclusive"), []
    with pytest.raises(BusyError), shared("a stage", wait_s=0.2, folder=tmp_path, say=said.append):
        pytest.fail("work went on beside a measurement")
    assert said == [f"a stage waits for process {neighbour.pid}, the neighbour"]
    assert neighbour.stdin is not None
    neighbour.stdin.close()
    with shared("a stage", wait_s=5, folder=tmp_path):
        pass


def test_work_goes_on_beside_other_work(hold: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path) -> None:
    hold("shared")
    with shared("a stage", wait_s=1, folder=tmp_path):
        pass


def test_a_waiting_measurement_lets_no_new_work_in(
    hold: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    worker = hold("shared")
    entered, leave = threading.Event(), threading.Event()

    def measure() -> None:
        with exclusive("a timing", wait_s=20, folder=tmp_path):
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        time.sleep(0.3)
        assert not entered.is_set()
        late = subprocess.Popen(
            [sys.executable, "-c", HOLD, "shared", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdin is not None
        worker.stdin.close()
        assert entered.wait(10), "who came later stood before the measurement"
        leave.set()
        assert late.stdout is not None
        assert late.stdout.readline() == "in\n"
        late.communicate()
    finally:
        leave.set()
        thread.join()


def test_what_a_killed_holder_held_is_free_again(
    hold: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    neighbour = hold("exclusive")
    neighbour.kill()
    neighbour.wait()
    with exclusive("a timing", wait_s=2, folder=tmp_path):
        pass


def test_a_measurement_inside_a_measurement_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        exclusive("the outer", folder=tmp_path),
        pytest.raises(BusyError, match="the inner waits for the outer, of this very process"),
        exclusive("the inner", wait_s=60, folder=tmp_path),
    ):
        pytest.fail("a measurement ran inside another")
    assert time.monotonic() - began < 5
    with exclusive("the next", wait_s=1, folder=tmp_path):
        pass


def test_other_users_may_use_the_locks_and_no_link_is_followed(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with exclusive("a timing", folder=tmp_path):
            pass
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666}
    trap = tmp_path / "elsewhere"
    trap.mkdir()
    (tmp_path / "victim").write_text("mine")
    (trap / "tandem-turn.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(BusyError, match="cannot be opened"), exclusive("a timing", folder=trap):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


def _enter(folder: str, log: str) -> None:
    with exclusive("a timing", wait_s=30, folder=Path(folder)), Path(log).open("a", buffering=1) as stream:
        stream.write(f"+{os.getpid()}\n")
        time.sleep(0.02)
        stream.write(f"-{os.getpid()}\n")


@pytest.mark.slow
def test_many_that_measure_are_never_in_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_enter, args=(str(tmp_path), str(log))) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    lines = log.read_text().split()
    assert len(lines) == 10
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert entered[0] == "+" and left == f"-{entered[1:]}"
