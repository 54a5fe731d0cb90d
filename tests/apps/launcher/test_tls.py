"""TLS before an endpoint: HAProxy, as Ray configures it and our wrapper completes it, speaks it to clients."""

import socket
import ssl
import subprocess
import time

import httpx
import pytest

from apps.launcher.haproxy import put_right
from apps.launcher.ports import free_block
from tests.apps.launcher.test_haproxy import NEEDS_HAPROXY, answering, ray_config, running

SUBJECT = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate of this host, and the file with its key that HAProxy reads."""
    cert, key, both = (tmp_path / name for name in ("cert.pem", "key.pem", "both.pem"))
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run([*new, *SUBJECT, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    both.write_text(cert.read_text() + key.read_text())
    return cert, both


def test_only_the_front_ends_of_clients_get_tls(tmp_path):
    before = put_right(ray_config(tmp_path).read_text(), tmp_path / "503.http")
    after = put_right(before, tmp_path / "503.http", "/pem")
    changed = [line for line, old in zip(after.splitlines(), before.splitlines(), strict=True) if line != old]
    assert [line.split() for line in changed] == [
        ["bind", "127.0.0.1:8000", "ssl", "crt", "/pem", "ssl-min-ver", "TLSv1.2", "alpn", "h2,http/1.1"]
    ]
    assert put_right(after, tmp_path / "503.http", "/pem") == after


def test_grpc_stays_http2(tmp_path):
    config = "frontend grpc_frontend\n    bind 0.0.0.0:9000 proto h2\n"
    (_, bind, _) = put_right(config, tmp_path / "503.http", "/pem").split("\n")
    assert bind.strip() == "bind 0.0.0.0:9000 ssl crt /pem ssl-min-ver TLSv1.2 alpn h2 proto h2"


@pytest.mark.slow
@NEEDS_HAPROXY
def test_clients_speak_tls_and_nothing_else(tmp_path, certificate, monkeypatch):
    cert, both = certificate
    monkeypatch.setenv("TANDEM_TLS_PEM", str(both))
    first = free_block(3)
    with answering() as replica:
        config = ray_config(tmp_path, http_port=first, metrics_port=first + 1, stats_port=first + 2, replicas=[replica])
        with running(config):
            until_it_listens(first)
            trust = ssl.create_default_context(cafile=str(cert))
            with httpx.Client(verify=trust, trust_env=False) as client:
                assert client.get(f"https://127.0.0.1:{first}/v2").text == str(replica)
                # Its metrics are for this machine, and stay as they were.
                assert "haproxy_" in client.get(f"http://127.0.0.1:{first + 1}/metrics").text
                with pytest.raises(httpx.TransportError):
                    client.get(f"http://127.0.0.1:{first}/v2")
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                httpx.get(f"https://127.0.0.1:{first}/v2", trust_env=False)
            assert negotiated(first, trust) in ("TLSv1.2", "TLSv1.3")


def until_it_listens(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("HAProxy does not listen")


def negotiated(port, context):
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.version()
