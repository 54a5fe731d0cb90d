import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtests.replicas import running_replicas, watching


class Dashboard(ThreadingHTTPServer):
    """Says that there are `running` teachers and one that starts."""

    running = 1
    body: bytes | None = None


class Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        states = ["RUNNING"] * self.server.running + ["STARTING"]
        deployments = {"Teacher": {"replicas": [{"state": state} for state in states]}}
        body = self.server.body or json.dumps({"applications": {"tandem": {"deployments": deployments}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    server = Dashboard(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def address(server: Dashboard) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_only_running_replicas_count(dashboard: Dashboard) -> None:
    assert running_replicas(address(dashboard), 5) == {"Teacher": 1}


def test_replicas_are_sampled_while_the_block_runs(dashboard: Dashboard) -> None:
    with watching(address(dashboard), every_s=0.05) as watch:
        time.sleep(0.3)
        dashboard.running = 2
        time.sleep(0.3)
    counts = [count["Teacher"] for _, count in watch.samples]
    assert (counts[0], counts[-1]) == (1, 2)
    assert counts == sorted(counts)
    assert watch.since(0.1)[0][0] == pytest.approx(watch.samples[0][0] - 0.1)


def test_dashboard_that_is_gone_ends_no_run() -> None:
    with watching("http://127.0.0.1:9", every_s=0.05) as watch:
        time.sleep(0.1)
    assert watch.samples == [] and watch.problem


def test_other_answers_are_refused(dashboard: Dashboard) -> None:
    dashboard.body = b'{"applications": []}'
    with pytest.raises(ValueError, match="not Ray Serve's status"):
        running_replicas(address(dashboard), 5)


def test_without_an_address_nothing_is_asked() -> None:
    with watching(None) as watch:
        pass
    assert watch.samples == [] and not watch.problem
