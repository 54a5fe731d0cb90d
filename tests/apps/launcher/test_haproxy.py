"""The wrapper round HAProxy: what it changes in Ray's configuration, what it leaves, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest

from apps.flags import serve_environment
from apps.launcher.front import WRAPPER
from apps.launcher.haproxy import ERROR_PAGE, find_binary, put_right
from apps.launcher.ports import free_block, is_free

FLAGS = serve_environment()
NEEDS_HAPROXY = pytest.mark.skipif(find_binary() is None, reason="no HAProxy for this platform")


def ray_config(
    tmp_path, http_host="127.0.0.1", http_port=8000, metrics_port=9101, stats_port=8404, replicas=None, fallback=None
):
    """What Ray itself writes, for one application with replicas at these ports; without any, its only one is gone."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    path = tmp_path / "haproxy.cfg"
    config = HAProxyConfig(
        http_options=HTTPOptions(host=http_host, port=http_port),
        metrics_port=metrics_port,
        stats_port=stats_port,
        socket_path=str(tmp_path / "admin.sock"),
        metrics_socket_path=str(tmp_path / "stats.sock"),
        server_state_base=str(tmp_path),
        server_state_file=str(tmp_path / "server-state"),
        retry_on=FLAGS["RAY_SERVE_HAPROXY_RETRY_ON"],
        retries=int(FLAGS["RAY_SERVE_HAPROXY_RETRIES"]),
        observe_error_limit=int(FLAGS["RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT"]),
        has_received_routes=True,
    )
    servers = [ServerConfig(f"replica{port}", "127.0.0.1", port) for port in replicas or [free_block(1)]]
    backend = BackendConfig(name="http-tandem", path_prefix="/", app_name="tandem", servers=servers)
    if fallback:
        backend.fallback_server = ServerConfig("fallback", "127.0.0.1", fallback)
    HAProxyApi(config, {backend.name: backend}, str(path))._generate_config_file_internal()
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_only_the_pages_move_to_loopback(tmp_path, host):
    before = ray_config(tmp_path, http_host=host).read_text()
    after = put_right(before, tmp_path / "503.http")
    binds = [line.split()[1] for line in after.splitlines() if line.strip().startswith("bind ")]
    endpoint = "127.0.0.1:8000" if host == "127.0.0.1" else "*:8000"
    assert sorted(binds) == sorted(["127.0.0.1:9101", endpoint, "127.0.0.1:8404"])
    assert after.count(f" {tmp_path / '503.http'}") == 3
    changed = [
        line
        for line, old in zip(after.splitlines(), before.splitlines(), strict=True)
        if line != old and not line.strip().startswith(("bind ", "errorfile "))
    ]
    assert [line.split()[:2] for line in changed] == [["#", "log"]]


def test_a_log_target_that_somebody_chose_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_LOG_TARGET", "127.0.0.1:514")
    before = ray_config(tmp_path).read_text()
    assert [line for line in put_right(before, tmp_path / "e").splitlines() if line.strip().startswith("log 127")]


def test_doing_it_twice_changes_nothing_more(tmp_path):
    once = put_right(ray_config(tmp_path).read_text(), tmp_path / "503.http")
    assert put_right(once, tmp_path / "503.http") == once


def test_the_error_page_is_valid_http():
    head, _, body = ERROR_PAGE.partition("\r\n\r\n")
    assert f"Content-Length: {len(body.encode())}" in head
    assert set(json.loads(body)) == {"error"}


STARTER = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
time.sleep(60)
"""


@contextmanager
def running(config):
    """The wrapper on `config`, started by a process that is killed at the end; yields HAProxy's process."""
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(WRAPPER), "-db", "-f", str(config), "-dR"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
        text=True,
    )
    assert starter.stdout is not None
    child = psutil.Process(int(starter.stdout.readline()))
    try:
        yield child
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        starter.stdout.close()
        psutil.wait_procs([child], timeout=10)


@pytest.mark.slow
@NEEDS_HAPROXY
def test_haproxy_answers_for_a_lost_replica_in_json_and_dies_with_its_parent(tmp_path):
    first = free_block(3)
    with running(ray_config(tmp_path, http_port=first, metrics_port=first + 1, stats_port=first + 2)) as process:
        answer = first_answer(f"http://127.0.0.1:{first}/v2/models/digits/infer")
        assert answer.status_code == 503
        assert "send it again" in answer.json()["error"]
        assert answer.headers["retry-after"] == "1"
        assert "haproxy_" in httpx.get(f"http://127.0.0.1:{first + 1}/metrics", trust_env=False).text
        listening = {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    assert not process.is_running()
    assert is_free(first)


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """HAProxy resets the connections of its health checks."""


class Answering(BaseHTTPRequestHandler):
    """Keeps no connection, so that who no longer listens no longer answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        content = str(self.server.server_port).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        return


@contextmanager
def answering():
    with Quiet(("127.0.0.1", 0), Answering) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
@NEEDS_HAPROXY
def test_a_replaced_haproxy_whose_replicas_are_all_gone_passes_requests_to_rays_own_proxy(tmp_path):
    """What an update leaves to a client with an idle connection."""
    first = free_block(3)
    with ExitStack() as stack:
        fallback = stack.enter_context(answering())
        replicas = ExitStack()
        ports = [replicas.enter_context(answering()) for _ in range(3)]
        config = ray_config(
            tmp_path,
            http_port=first,
            metrics_port=first + 1,
            stats_port=first + 2,
            replicas=ports,
            fallback=fallback,
        )
        process = stack.enter_context(running(config))
        with httpx.Client(trust_env=False) as client:
            url = f"http://127.0.0.1:{first}/"
            assert int(first_answer(url).text) in ports
            assert int(client.get(url).text) in ports
            process.send_signal(signal.SIGUSR1)  # as at a reload: it takes no new connections and keeps those it has
            replicas.close()
            time.sleep(1)
            assert int(client.get(url).text) == fallback


def first_answer(url):
    deadline = time.monotonic() + 15
    while True:
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
