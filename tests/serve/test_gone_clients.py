"""A client that closes its connection takes its work with it."""

import socket
import time

import numpy as np
import pytest

from loadtests.endpoint import model_metadata
from loadtests.payloads import RequestOptions, infer_request
from tests.serve.deployed import deploy, publish_champion
from tests.serve.slow_teacher import ROW_S
from tests.tiny import UNSURE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "impatient"
CLIENTS, ROWS = 12, 8


@pytest.fixture(scope="module")
def served(cluster, serve_port, tmp_path_factory):
    folder = tmp_path_factory.mktemp(MODEL)
    publish_champion(cluster, folder, MODEL)
    teacher = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.2}}
    args = {"model": MODEL, "max_batch_rows": 4}
    return deploy(cluster, folder, serve_port, MODEL, args, {"Teacher": teacher}, "tests.serve.slow_teacher:build")


def request_for_teacher(served, rows):
    inputs = np.stack([UNSURE] * rows)
    return infer_request(model_metadata(served.url, MODEL), inputs, (0,) * rows, RequestOptions(mode="teacher"))


def test_what_nobody_waits_for_any_more_is_not_worked_off(served):
    many, one = (request_for_teacher(served, rows) for rows in (ROWS, 1))
    lines = [f"POST {many.path} HTTP/1.1", "Host: here", f"Content-Length: {len(many.body)}"]
    lines += [f"{name}: {value}" for name, value in many.headers.items()]
    host, port = served.url.removeprefix("http://").split(":")
    impatient = [socket.create_connection((host, int(port)), timeout=10) for _ in range(CLIENTS)]
    for connection in impatient:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + many.body)
    time.sleep(2 * ROW_S)
    for connection in impatient:
        connection.close()
    time.sleep(2 * ROW_S)
    with served.client() as client:
        began_s = time.monotonic()
        response = client.post(one.path, content=one.body, headers=one.headers)
        took_s = time.monotonic() - began_s
    assert response.status_code == 200, response.text
    # All of it would have taken so long; what runs already is finished.
    assert took_s < 0.5 * CLIENTS * ROWS * ROW_S, took_s
