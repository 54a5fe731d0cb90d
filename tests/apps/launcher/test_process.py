"""A guarded process: it fails loudly, stops with all it started, and does not outlive its parent."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from apps.launcher.local import ROOT
from apps.launcher.process import Process, ProcessError, wait_for_url

# A command with a child of its own in the same group; both ignore a polite SIGTERM when told so.
FAMILY = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("pids", os.getpid(), child.pid, flush=True)
time.sleep(60)
"""


def start(tmp_path, *command, grace_s=5.0):
    process = Process("The helper", command, env=os.environ, log_path=tmp_path / "helper.log", grace_s=grace_s)
    process.start()
    return process


def pids_said_by(process, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        words = process.tail(1).split()
        if words[:1] == ["pids"]:
            return [psutil.Process(int(word)) for word in words[1:]]
        time.sleep(0.02)
    raise AssertionError(process.tail())


def is_alive(process):
    """A dead process that its new parent has not yet looked after (a zombie) is not alive."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(processes, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_alive, processes))


def test_the_exit_status_and_the_output_are_kept(tmp_path):
    process = start(tmp_path, sys.executable, "-c", "print('hello'); raise SystemExit(3)")
    assert process.wait(10.0) == 3
    assert process.tail() == "hello"


def test_the_tail_shows_a_progress_bar_in_its_last_state(tmp_path):
    process = start(tmp_path, sys.executable, "-c", r"print('first\n10%\r50%\r99%\r', end='')")
    process.wait(10.0)
    assert process.tail(2) == "first\n99%"


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_stop_ends_the_command_and_what_it_started(tmp_path, manner):
    process = start(tmp_path, sys.executable, "-c", FAMILY, manner, grace_s=0.5)
    family = pids_said_by(process)
    process.stop()
    assert process.returncode is not None
    assert all_gone(family)


def test_stop_after_the_end_does_nothing(tmp_path):
    process = start(tmp_path, sys.executable, "-c", "pass")
    process.wait(10.0)
    process.stop()
    assert process.returncode == 0


def test_a_killed_parent_leaves_nothing_behind(tmp_path):
    parent = f"""
import os, pathlib, sys, time
from apps.launcher.process import Process
log_path = pathlib.Path({str(tmp_path)!r}, "x.log")
process = Process("x", [sys.executable, "-c", {FAMILY!r}], env=os.environ, log_path=log_path)
process.start()
time.sleep(60)
"""
    killed = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT)
    reader = Process("x", [], env={}, log_path=tmp_path / "x.log")
    while not reader.log_path.exists():
        time.sleep(0.02)
    family = pids_said_by(reader)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert all_gone(family)


def test_a_signal_to_the_terminals_group_does_not_reach_the_command(tmp_path):
    process = start(tmp_path, sys.executable, "-c", FAMILY)
    family = pids_said_by(process)
    try:
        assert all(os.getpgid(member.pid) != os.getpgid(0) for member in family)
    finally:
        process.stop()


def test_waiting_for_a_server_that_dies_shows_the_end_of_its_log(tmp_path):
    process = start(tmp_path, sys.executable, "-c", "raise SystemExit('no such database')")
    with pytest.raises(ProcessError, match=r"status 1 before it was ready[\s\S]*no such database"):
        wait_for_url("http://127.0.0.1:9/", process, timeout_s=10.0)


def test_waiting_for_a_server_has_a_limit(tmp_path):
    process = start(tmp_path, sys.executable, "-c", FAMILY)
    with pytest.raises(ProcessError, match="not ready after"):
        wait_for_url("http://127.0.0.1:9/", process, timeout_s=0.5)
    process.stop()


def test_waiting_ends_when_the_url_answers(tmp_path):
    class Fine(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Fine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        process = start(tmp_path, sys.executable, "-c", FAMILY)
        wait_for_url(f"http://127.0.0.1:{server.server_port}/", process, timeout_s=10.0)
        process.stop()
        server.shutdown()
        thread.join()
