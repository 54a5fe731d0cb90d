"""`python -m apps.up`: what it refuses before anything starts."""

import os
import re
import socket
import subprocess
import sys

import pytest

from apps.launcher.local import ROOT
from apps.up import InUseError, check_port, lock


def run_up(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "apps.up", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_taken_port_is_explained_and_nothing_is_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run_up("--port", str(port), "--state-dir", str(tmp_path / "state"))
    assert done.returncode == 2
    assert f"Port {port} is taken by Python (process" in done.stdout
    assert f"pid {os.getpid()}" in done.stdout
    assert re.search(r"make up PORT=\d+", done.stdout)
    assert not (tmp_path / "state").exists()


def test_the_port_that_is_proposed_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(InUseError) as refused:
            check_port(server.getsockname()[1])
        proposed = re.search(r"PORT=(\d+)", str(refused.value))
        assert proposed
        check_port(int(proposed[1]))


def test_a_second_launch_in_the_same_folder_is_refused_with_the_first_ones_pid(tmp_path):
    first = lock(tmp_path)
    with pytest.raises(InUseError, match=f"pid {os.getpid()}"):
        lock(tmp_path)
    first.close()
    lock(tmp_path).close()


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none_is_refused(port):
    done = run_up(f"--port={port}")
    assert done.returncode == 2
    assert "no TCP port" in done.stderr


def test_the_launcher_itself_imports_nothing_heavy():
    code = "import sys, apps.up; print(sorted({'torch', 'ray', 'mlflow', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
