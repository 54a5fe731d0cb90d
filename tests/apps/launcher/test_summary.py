"""The first request of a launch: what is posted, and that the curl line posts the same."""

import io
import json
import shlex
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from apps.launcher.process import ProcessError
from apps.launcher.summary import SAMPLE_IMAGE, print_addresses, sample_request, send


class Endpoint:
    """Says that its model takes `datatype`, answers every POST with `status`, and keeps what was posted."""

    def __init__(self):
        self.datatype, self.status, self.posted, self.url = "UINT8", 200, [], ""


@pytest.fixture
def endpoint():
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, {"inputs": [{"datatype": endpoint.datatype}]})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            endpoint.posted.append((self.path, self.headers["Content-Type"], body))
            self.reply(endpoint.status, {"predictions": []})

        def reply(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        endpoint.url = f"http://127.0.0.1:{server.server_port}"
        yield endpoint
        server.shutdown()
        thread.join()


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 5), dtype=np.uint8)
    np.savez(folder / "inputs.npz", inputs=images, labels=np.zeros(3, np.int64))
    return folder / "inputs.npz"


def curl_posts_the_same(endpoint, request):
    """Paste the line as a shell would take it, and compare what arrives with what `send` posts."""
    send(request)
    curl, *rest = shlex.split(request.curl)
    subprocess.run([curl, "-sf", "--noproxy", "*", *rest], check=True, capture_output=True, timeout=20)
    return endpoint.posted[0] == endpoint.posted[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH")
@pytest.mark.parametrize(("model", "datatype"), [("digits", "UINT8"), ("cifar10", "UINT8"), ("ag_news", "INT64")])
def test_the_curl_line_posts_what_was_posted(endpoint, inputs, model, datatype):
    endpoint.datatype = datatype
    assert curl_posts_the_same(endpoint, sample_request(endpoint.url, model, inputs))
    assert endpoint.posted[0][0] == f"/v1/models/{model}:predict"


def test_digits_get_the_shipped_photograph_and_other_images_a_test_input(endpoint, inputs):
    assert sample_request(endpoint.url, "digits", inputs).body == SAMPLE_IMAGE.read_bytes()
    image = Image.open(io.BytesIO(sample_request(endpoint.url, "cifar10", inputs).body))
    assert np.array_equal(np.asarray(image).transpose(2, 0, 1), np.load(inputs)["inputs"][0])


def test_an_answer_that_is_no_200_is_shown(endpoint, inputs):
    request = sample_request(endpoint.url, "digits", inputs)
    endpoint.status = 503
    with pytest.raises(ProcessError, match=r"digits:predict was answered with 503: \{"):
        send(request)


def test_addresses_survive_a_narrow_terminal():
    console = Console(file=io.StringIO(), width=20)
    print_addresses(console, {"MLflow": "http://127.0.0.1:5000/[x]"}, "curl " + "y" * 60)
    assert "MLflow  http://127.0.0.1:5000/[x]\n" in console.file.getvalue()
    assert "curl " + "y" * 60 + "\n" in console.file.getvalue()
