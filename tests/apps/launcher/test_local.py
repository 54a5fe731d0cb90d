"""The local cluster: ready inside its block, on loopback, and gone without a trace after it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from apps.launcher.haproxy import find_binary
from apps.launcher.local import ROOT, LocalCluster, base_environment, default_num_cpus
from apps.launcher.ports import free_block, is_free
from apps.up import InUseError, check_port
from tests.serve.deployed import serve_nothing


def processes_mentioning(*texts):
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if any(text in command for text in texts):
            found.append(process)
    return found


def test_addresses_of_another_cluster_do_not_reach_ours(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    env = base_environment()
    assert "RAY_ADDRESS" not in env
    assert "RAY_JOB_CONFIG_JSON_ENV_VAR" not in env
    assert env["RAY_AUTH_MODE"] == "disabled"


def test_code_and_commands_are_ours_and_loopback_bypasses_proxies(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("NO_PROXY", "example.org")
    env = base_environment()
    assert env["PYTHONPATH"] == f"{ROOT}{os.pathsep}/somewhere"
    assert Path(shutil.which("python", path=env["PATH"])).parent == Path(sys.executable).parent
    assert env["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_a_small_machine_has_room_for_training_beside_serving(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert default_num_cpus() >= 4


def test_another_mlflow_is_used_where_one_is_named(tmp_path):
    cluster = LocalCluster(tmp_path, tracking_uri="http://127.0.0.1:5999")
    assert cluster.mlflow is None
    assert cluster.environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5999"
    cluster.stop()
    assert not cluster.ray.temp_dir.exists()


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_both_servers_answer_inside_the_block_and_are_gone_after_it(tmp_path):
    with LocalCluster(tmp_path, num_cpus=2) as cluster:
        env = cluster.environment
        version = httpx.get(f"{env['RAY_DASHBOARD_ADDRESS']}/api/version", trust_env=False).json()
        assert version["ray_version"]
        assert httpx.get(f"{env['MLFLOW_TRACKING_URI']}/health", trust_env=False).text == "OK"
        family = psutil.Process().children(recursive=True)
        names = {process.name() for process in family}
        assert {"gcs_server", "raylet"} <= names
        port = free_block(1)
        serve_nothing(cluster, port)
        holder = "HAProxy" if find_binary() else "Ray"
        with pytest.raises(InUseError, match=f"Port {port} is taken by {holder}"):
            check_port(port)
        family = psutil.Process().children(recursive=True)
        assert listeners_off_loopback(family) == []
    assert [process for process in family if is_alive(process)] == []
    assert processes_mentioning(str(cluster.ray.temp_dir), str(tmp_path)) == []
    assert is_free(port)
    assert not cluster.ray.temp_dir.exists()
    assert (tmp_path / "mlflow.db").exists()
    assert (tmp_path / "logs" / "ray" / "gcs_server.out").exists()


def is_alive(process):
    """A dead process that its new parent has not yet looked after (a zombie) is not alive."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listeners_off_loopback(processes):
    found = []
    for process in processes:
        # One that has ended meanwhile listens nowhere.
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [
                (process.name(), connection.laddr)
                for connection in process.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN
                and connection.laddr.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")
            ]
    return found


@pytest.mark.long
def test_a_killed_parent_takes_the_cluster_with_it(tmp_path):
    port = free_block(1)
    script = f"""
import pathlib, time
from apps.launcher.local import LocalCluster
from tests.serve.deployed import serve_nothing
with LocalCluster(pathlib.Path({str(tmp_path)!r}), num_cpus=2) as cluster:
    serve_nothing(cluster, {port})
    print(cluster.ray.temp_dir, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    temp_dir = parent.stdout.readline().strip()
    assert Path(temp_dir).is_dir()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30.0
    while (left := processes_mentioning(temp_dir, str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert is_free(port)
    shutil.rmtree(temp_dir, ignore_errors=True)
    assert left == []
