"""Deploying: the config that is sent, and how Serve's states are read."""

import http.server
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
import yaml

from apps.launcher.deploy import DeployError, grpc_port, wait_until_running, write_config
from apps.launcher.ports import free_block
from apps.protocol import grpc_protocol_pb2 as pb

SERVE_STATE = "/api/serve/applications/"


@contextmanager
def answering(pages):
    """A server that gives each path its list of (status, JSON) in turn, the last one for ever."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            turns = pages[self.path]
            status, body = turns.pop(0) if len(turns) > 1 else turns[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def serve_says(status, proxy="HEALTHY", **details):
    return (200, {"applications": {"tandem": {"status": status, **details}}, "proxies": {"node": {"status": proxy}}})


def wait(url, timeout_s=10.0, grpc_port=None):
    notes = []
    wait_until_running(url, "tandem", url, timeout_s=timeout_s, note=notes.append, grpc_port=grpc_port)
    return notes


def test_the_config_gets_port_loopback_and_arguments_and_keeps_the_rest(tmp_path):
    source = tmp_path / "source.yaml"
    source.write_text(
        "http_options: {host: 0.0.0.0, request_timeout_s: 9}\n"
        "applications:\n- {name: tandem, import_path: 'apps.graph:build', args: {model: digits, deadline_ms: 30}}\n"
    )
    assert write_config(source, tmp_path / "target.yaml", port=8001, args={"model": "cifar10"}) == "tandem"
    config = yaml.safe_load((tmp_path / "target.yaml").read_text())
    assert config["http_options"] == {"host": "127.0.0.1", "port": 8001, "request_timeout_s": 9}
    assert config["applications"][0]["args"] == {"model": "cifar10", "deadline_ms": 30}
    assert config["applications"][0]["import_path"] == "apps.graph:build"


def test_a_config_without_application_is_refused(tmp_path):
    source = tmp_path / "source.yaml"
    source.write_text("http_options: {}\n")
    with pytest.raises(DeployError, match=r"source\.yaml .* exactly one"):
        write_config(source, tmp_path / "target.yaml", port=8000, args={})


def test_waiting_ends_when_serve_runs_and_the_endpoint_is_ready():
    pages = {
        SERVE_STATE: [
            (200, {"applications": {}}),
            serve_says("DEPLOYING", deployments={"Teacher": {"status": "UPDATING"}}),
            serve_says("RUNNING", deployments={"Teacher": {"status": "HEALTHY"}}),
        ],
        "/v2/health/ready": [(503, {}), (200, {})],
    }
    with answering(pages) as url:
        notes = wait(url)
    assert notes[0] == "not there yet"
    assert "DEPLOYING (Teacher UPDATING)" in notes
    assert any("does not answer 200" in note for note in notes)


@pytest.mark.parametrize("status", ["DEPLOY_FAILED", "UNHEALTHY"])
def test_a_failed_deployment_is_told_with_serves_own_reasons(status):
    deployments = {"Teacher": {"status": "UNHEALTHY", "message": "no such Release"}}
    pages = {SERVE_STATE: [serve_says(status, message="build failed", deployments=deployments)]}
    reasons = rf"{status}[\s\S]*build failed[\s\S]*no such Release"
    with answering(pages) as url, pytest.raises(DeployError, match=reasons):
        wait(url)


def test_waiting_has_a_limit_and_says_what_it_saw_last():
    last_seen = "after 1 s; last seen: DEPLOYING"
    with answering({SERVE_STATE: [serve_says("DEPLOYING")]}) as url, pytest.raises(DeployError, match=last_seen):
        wait(url, timeout_s=0.6)


def test_an_answer_on_the_port_counts_only_when_our_own_proxy_is_healthy():
    pages = {SERVE_STATE: [serve_says("RUNNING", proxy="UNHEALTHY")], "/v2/health/ready": [(200, {})]}
    with answering(pages) as url, pytest.raises(DeployError, match="HTTP proxy UNHEALTHY"):
        wait(url, timeout_s=0.6)


def test_grpc_listens_as_far_above_the_port_as_usual(tmp_path):
    source = tmp_path / "source.yaml"
    source.write_text(
        "grpc_options: {port: 9000, grpc_servicer_functions: [a.b:c]}\n"
        "applications: [{name: tandem, import_path: a:b}]\n"
    )
    write_config(source, tmp_path / "target.yaml", port=8001, args={})
    written = yaml.safe_load((tmp_path / "target.yaml").read_text())
    assert written["grpc_options"] == {"port": 9001, "grpc_servicer_functions": ["a.b:c"]}


def test_what_serve_would_ignore_is_refused(tmp_path):
    source = tmp_path / "source.yaml"
    source.write_text(
        "applications: [{name: tandem, import_path: 'apps.graph:build', deployments: [{name: Techer}]}]\n"
    )
    with pytest.raises(DeployError, match="Techer"):
        write_config(source, tmp_path / "target.yaml", port=8001, args={})


@contextmanager
def grpc_server(code, answer=b""):
    """A gRPC server that gives `ServerReady` this answer or this status; its port."""

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details):
            def reply(request, context):
                if code is not grpc.StatusCode.OK:
                    context.abort(code, "as the test wants it")
                return answer

            assert details.method == "/inference.GRPCInferenceService/ServerReady"
            return grpc.unary_unary_rpc_method_handler(reply)

    server = grpc.server(ThreadPoolExecutor(1), handlers=(Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("code", "answer", "ready"),
    [
        (grpc.StatusCode.OK, pb.ServerReadyResponse(ready=True), True),
        (grpc.StatusCode.OK, pb.ServerReadyResponse(ready=False), False),
        (grpc.StatusCode.UNAUTHENTICATED, None, True),
        # What Ray's own proxy says of an application that it does not know.
        (grpc.StatusCode.NOT_FOUND, None, False),
    ],
)
def test_waiting_goes_on_until_grpc_answers_too(code, answer, ready):
    pages = {SERVE_STATE: [serve_says("RUNNING")], "/v2/health/ready": [(200, {})]}
    content = b"" if answer is None else answer.SerializeToString()
    with answering(pages) as url, grpc_server(code, content) as port:
        if ready:
            wait(url, grpc_port=port)
        else:
            with pytest.raises(DeployError, match=f"gRPC at port {port} does not answer"):
                wait(url, timeout_s=0.5, grpc_port=port)


def test_waiting_goes_on_while_nothing_listens_for_grpc():
    pages = {SERVE_STATE: [serve_says("RUNNING")], "/v2/health/ready": [(200, {})]}
    port = free_block(1)
    with answering(pages) as url, pytest.raises(DeployError, match=f"gRPC at port {port} does not answer"):
        wait(url, timeout_s=0.5, grpc_port=port)


def test_a_config_says_where_grpc_listens(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("grpc_options: {port: 9100}\napplications: []\n")
    assert grpc_port(config) == 9100
    config.write_text("applications: []\n")
    assert grpc_port(config) is None
