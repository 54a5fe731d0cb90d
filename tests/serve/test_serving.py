"""Tiny Releases from a real registry, served by the real graph on a real cluster."""

import json
import threading
import time
from collections import Counter

import numpy as np
import pytest

from loadtests.metrics import Window, discover, fetch
from optimization.runners.open import open_runner
from tests.serve.deployed import deploy, until
from tests.tiny import SURE, UNSURE, logits, publish_tiny
from training.artifact import load_artifact
from training.registry import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATH = "/v2/models/tiny/infer"
# Generous: what is tested is who answers, on a machine that may be busy with other things.
DEADLINE_MS = 2_000


@pytest.fixture(scope="module")
def releases(cluster, tmp_path_factory):
    """Two Releases of `tiny`: champion 1, whose student adds 0, and candidate 2, whose student adds 50."""
    registry = Registry(cluster.tracking_uri)
    folder = tmp_path_factory.mktemp("tiny")
    made = []
    for alias, offset in (("champion", 0.0), ("candidate", 50.0)):
        made.append(
            publish_tiny(registry, folder / alias, model="tiny", alias=alias, threshold=0.9, student_offset=offset)
        )
    return made


@pytest.fixture(scope="module")
def served(cluster, serve_port, releases, tmp_path_factory):
    args = {"model": "tiny", "deadline_ms": DEADLINE_MS, "releases": [{"ref": "champion"}]}
    return deploy(cluster, tmp_path_factory.mktemp("served"), serve_port, "tiny", args)


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


def body(rows, **fields):
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return {"inputs": [tensor], **fields}


def numbers(response):
    (output,) = response.json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_prometheus_reads_what_was_answered(client, cluster):
    urls = discover(cluster.ray.temp_dir / "prom_metrics_service_discovery.json")
    before = fetch(urls)
    for row, count in ((SURE, 5), (UNSURE, 3)):
        for _ in range(count):
            assert client.post(PATH, json=body(row[None])).status_code == 200

    def counted():
        window = Window(before, fetch(urls))
        return (
            window.by("ray_tandem_rows_total", "reason", model="tiny"),
            window.by("ray_tandem_requests_total", "status", model="tiny"),
            window.by("ray_tandem_request_duration_seconds_count", "variant", model="tiny"),
            window.increase("ray_tandem_batch_rows_sum", model="tiny", role="student"),
            # And the call that found the teacher before any request.
            window.increase("ray_tandem_batch_rows_sum", model="tiny", role="teacher") in (3, 4),
            # Serve's own histograms take a sample of at most so many a second: here it is all.
            window.increase("ray_serve_deployment_processing_latency_ms_count", application="tiny") >= 8,
        )

    expected = (
        {"confident": 5, "escalated": 3},
        {"200": 8},
        {"student": 5, "teacher": 3},
        8,
        True,
        True,
    )
    until(lambda: counted() == expected, 60, "all of it is in the metrics")


def test_the_cascade_answers_each_row_by_who_is_sure_of_it(client):
    rows = np.stack([SURE, UNSURE, SURE])
    response = client.post(PATH, json=body(rows))
    assert response.status_code == 200, response.text
    assert response.json()["parameters"]["variant"] == "student,teacher,student"
    assert response.json()["parameters"]["reason"] == "confident,escalated,confident"
    expected = np.concatenate([logits(rows[:1], 0.0), logits(rows[1:2], 100.0), logits(rows[2:], 0.0)])
    np.testing.assert_allclose(numbers(response), expected, atol=1e-5)


def test_the_page_is_served_and_told_what_to_show(client):
    assert "<html" in client.get("/").text
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["kind"], model["labels"]) == ("tiny", "image", ["a", "b", "c"])
    assert (model["height"], model["width"], model["channels"]) == (2, 2, 1)


@pytest.mark.parametrize("variant", ["teacher", "student"])
@pytest.mark.parametrize("batch", [1, 8])
def test_json_and_binary_agree_with_the_runner_called_directly(client, cluster, releases, variant, batch):
    registry = Registry(cluster.tracking_uri)
    part = getattr(releases[0][1], variant)
    artifact = load_artifact(registry.fetch(registry.resolve(f"{part.name}@{part.number}"), cluster.cache_dir))
    rows = np.random.default_rng(batch).integers(0, 256, (batch, 1, 2, 2), dtype=np.uint8)
    expected = open_runner(artifact)(rows)
    as_json = client.post(PATH, json=body(rows, parameters={"mode": variant}))
    np.testing.assert_allclose(numbers(as_json), expected, atol=1e-5)

    head = body(rows, parameters={"mode": variant, "binary_data_output": True})
    del head["inputs"][0]["data"]
    head["inputs"][0]["parameters"] = {"binary_data_size": rows.nbytes}
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    binary = client.post(PATH, content=text + rows.tobytes(), headers=headers)
    length = int(binary.headers["Inference-Header-Content-Length"])
    answered = np.frombuffer(binary.content[length:], np.float32).reshape(batch, 3)
    np.testing.assert_allclose(answered, expected, atol=1e-5)
    assert binary.headers["x-tandem-variant"] == variant
    assert binary.headers["x-tandem-reason"] == "pinned"


def test_bad_requests_leave_the_replicas_alive(client, served):
    before = {replica["pid"] for name in ("Ingress", "Teacher") for replica in served.replicas(name)}
    for content in (b"", b"{", b"[" * 10_000, b"\0" * 100_000, b'{"inputs": [{"name": "image"}]}'):
        for path in (PATH, "/v1/models/tiny:predict"):
            response = client.post(path, content=content)
            assert 400 <= response.status_code < 500
            assert "error" in response.json()
    assert client.post(PATH, content=b"x" * 8_000_001).status_code == 413
    assert {replica["pid"] for name in ("Ingress", "Teacher") for replica in served.replicas(name)} == before


class Load:
    """Sends requests of one sure and one unsure row from several threads until it is stopped."""

    def __init__(self, served, threads=3):
        self.statuses = Counter()
        self._served = served
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self):
        content = json.dumps(body(np.stack([SURE, UNSURE]), parameters={"deadline_ms": 300}))
        with self._served.client() as client:
            while not self._stop.is_set():
                response = client.post(PATH, content=content)
                self.statuses[response.status_code] += 1
                time.sleep(0.01)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture(scope="module")
def split(cluster, serve_port, served, tmp_path_factory):
    """The application redeployed with both Releases, under load, and the statuses that the load saw meanwhile."""
    releases = [{"ref": "champion", "weight": 3}, {"ref": "tiny.endpoint@candidate", "weight": 1}]
    args = {"model": "tiny", "deadline_ms": DEADLINE_MS, "releases": releases}
    with Load(served) as load:
        redeployed = deploy(cluster, tmp_path_factory.mktemp("split"), serve_port, "tiny", args)
    return redeployed, load.statuses


def test_a_redeployment_under_load_loses_no_request(split):
    _, statuses = split
    assert set(statuses) == {200}, statuses
    assert statuses[200] > 20


def test_a_split_is_sticky_by_key_and_near_its_weights(split):
    served, _ = split
    offset_of = {"1": 0.0, "2": 50.0}
    with served.client() as client:
        assert client.get("/v2/models/tiny").json()["versions"] == ["1", "2"]

        def answer(path=PATH, **parameters):
            response = client.post(path, json=body(SURE[None], parameters=parameters))
            release = response.headers["x-tandem-release"]
            # Each Release answers with its own student.
            np.testing.assert_allclose(numbers(response), logits(SURE[None], offset_of[release]), atol=1e-5)
            assert response.json()["model_version"] == release
            return release

        by_key = {f"user-{i}": answer(ab_key=f"user-{i}") for i in range(120)}
        assert {key: answer(ab_key=key) for key in list(by_key)[:40]} == dict(list(by_key.items())[:40])
        # Four standard deviations of a share of 120 draws.
        assert Counter(by_key.values())["1"] / 120 == pytest.approx(0.75, abs=0.16)
        drawn = Counter(answer() for _ in range(120))
        assert drawn["1"] / 120 == pytest.approx(0.75, abs=0.16)
        for version in ("1", "2"):
            assert answer(f"/v2/models/tiny/versions/{version}/infer") == version
