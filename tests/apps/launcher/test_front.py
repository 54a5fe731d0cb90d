"""The front end of one cluster: its own ports and paths, the project's flags, and what a user set."""

import shutil
import tempfile
from pathlib import Path

import pytest

from apps.flags import serve_environment
from apps.launcher import haproxy
from apps.launcher.front import WRAPPER, FrontEnd


@pytest.fixture
def start():
    made = []

    def start(env=None):
        folder = Path(tempfile.mkdtemp(prefix="tandem-", dir="/tmp"))
        front = FrontEnd(folder, env or {})
        made.append((folder, front))
        return front

    yield start
    for folder, front in made:
        front.release()
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def on_linux(monkeypatch):
    monkeypatch.setattr(haproxy, "find_binary", lambda: "/somewhere/haproxy")


def test_the_flags_of_the_project_hold_where_a_user_set_none(start):
    front = start({"RAY_SERVE_HAPROXY_NBTHREAD": "8"})
    expected = {**serve_environment(), "RAY_SERVE_HAPROXY_NBTHREAD": "8"}
    assert {name: front.environment[name] for name in expected} == expected
    assert front.environment["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(WRAPPER)
    assert front.notes == []


def test_two_clusters_share_neither_port_nor_path(start):
    first, second = start().environment, start().environment
    own = [name for name in first if "PORT" in name.split("_")[-1:] or name.endswith(("PATH", "LOC", "BASE", "FILE"))]
    assert len(own) > 10
    shared = {"RAY_SERVE_HAPROXY_BINARY_PATH", "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"}
    assert {name for name in own if first[name] == second[name]} == shared
    ranges = [
        range(
            int(env[f"RAY_SERVE_DIRECT_INGRESS_MIN_{kind}_PORT"]), int(env[f"RAY_SERVE_DIRECT_INGRESS_MAX_{kind}_PORT"])
        )
        for env in (first, second)
        for kind in ("HTTP", "GRPC")
    ]
    ports = [port for ports in ranges for port in ports]
    assert len(ports) == len(set(ports)) == 320


def test_socket_paths_fit_with_the_nodes_name_and_haproxys_own_suffix(start):
    environment = start().environment
    for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
        path = Path(environment[name])
        assert len(str(path.parent / ("f" * 56) / path.name)) + len(".4194304.tmp") <= 107


def test_a_platform_without_haproxy_gets_rays_own_proxy_and_a_note(start, monkeypatch):
    monkeypatch.setattr(haproxy, "find_binary", lambda: None)
    front = start()
    assert front.environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in front.environment
    (note,) = front.notes
    assert "no HAProxy for this platform" in note


def test_a_user_who_turns_it_off_is_obeyed_and_told(start):
    front = start({"RAY_SERVE_ENABLE_HA_PROXY": "0"})
    assert front.environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    (note,) = front.notes
    assert note.startswith("RAY_SERVE_ENABLE_HA_PROXY is 0")


def test_a_users_own_binary_runs_and_the_consequence_is_said(start):
    front = start({"RAY_SERVE_HAPROXY_BINARY_PATH": "/opt/haproxy"})
    assert front.environment["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/opt/haproxy"
    assert "/opt/haproxy" in front.notes[0]
