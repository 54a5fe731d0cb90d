"""The HTTP surface over in-process models: what a good request gets, and that a bad one gets a 4xx that says why."""

import asyncio
import io
import json
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from apps.backends.backend import GuardedBackend
from apps.backends.breaker import Breaker
from apps.endpoint import Endpoint
from apps.observe.account import Books
from apps.observe.meter import NoMeter
from apps.refusal import Refused, RefusedError
from apps.router import Arm, Patience, Router
from apps.service import MAX_DECODING, Service
from apps.web import build_app
from training.encoding import Encoder, ImageEncoding, TextEncoding

IMAGE = ImageEncoding(height=2, width=2, channels=1, labels=("a", "b", "c"))
SURE, UNSURE = [255, 0, 0, 0], [128, 127, 0, 0]
LENGTH = "Inference-Header-Content-Length"


class Model:
    """Logits are the first three values of a row over 25.5, plus `offset`; refuses with `refuse`."""

    def __init__(self, offset=0.0):
        self.offset = offset
        self.refuse = None

    async def infer(self, rows, timeout_s):
        if self.refuse is not None:
            raise RefusedError(Refused(self.refuse, f"the teacher says {self.refuse}", wait_s=2.5))
        flat = rows.reshape(len(rows), -1).astype(np.float32)[:, :3]
        flat = np.pad(flat, ((0, 0), (0, 3 - flat.shape[1])))
        return flat / np.float32(25.5) + np.float32(self.offset)


class Ledger(NoMeter):
    def __init__(self):
        self.records = []
        self.in_flight = 0

    def began(self):
        self.in_flight += 1

    def ended(self):
        self.in_flight -= 1

    def record(self, release, variant, reason, status, latency_ms, protocol, parse_ms, encode_ms):
        assert latency_ms >= parse_ms + encode_ms >= 0
        assert protocol == "http"
        assert self.in_flight >= 0
        self.records.append((release, variant, reason, status))


class Served:
    """A Service whose teacher and ledger the test can reach; `ask` sends one request to it."""

    def __init__(self, encoder, max_rows=256, max_body_bytes=8_000_000):
        self.student, self.teacher, self.ledger = Model(), Model(100.0), Ledger()
        arm = Arm(3, 1.0, 2.0, 0.9, self.student, GuardedBackend(self.teacher, Breaker(), 0.0))
        router = Router([arm, replace(arm, number=4, weight=1.0)], Patience(0.04, 0.01, 5.0))
        about = {"model": "tiny", "labels": list(encoder.encoding.labels)}
        service = Service("tiny", encoder, router, about, max_rows, Books("tiny", self.ledger))
        second = Service("second", encoder, Router([replace(arm, number=9)], Patience(0.04, 0.01, 5.0)))
        self.app = build_app(Endpoint({"tiny": service, "second": second}, max_body_bytes))

    def ask(self, method, path, **request):
        async def send():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://tandem") as client:
                return await client.request(method, path, **request)

        return asyncio.run(send())


@pytest.fixture
def endpoint():
    return Served(Encoder(IMAGE), max_rows=4, max_body_bytes=20_000)


@pytest.fixture
def text_endpoint():
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<pad>": 0, "<unk>": 1, "good": 2, "bad": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    encoding = TextEncoding(max_tokens=5, labels=("x", "y", "z"))
    encoder = Encoder(encoding, {"tokenizer.json": tokenizer.to_str().encode()})
    return Served(encoder)


def tensor(*rows, **changes):
    data = [value for row in rows for value in row]
    return {"name": "image", "datatype": "UINT8", "shape": [len(rows), 1, 2, 2], "data": data, **changes}


def request(*rows, **fields):
    return {"inputs": [tensor(*rows)], **fields}


def infer(endpoint, body, path="/v2/models/tiny/versions/3/infer", **rest):
    return endpoint.ask("POST", path, json=body, **rest)


def png(width=2, height=2, value=255):
    file = io.BytesIO()
    Image.new("L", (width, height), value).save(file, "PNG")
    return file.getvalue()


def test_each_row_tells_who_answered_it_and_why(endpoint):
    response = infer(endpoint, request(SURE, UNSURE, id="q1"))
    assert response.status_code == 200
    body = response.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("tiny", "3", "q1")
    assert body["parameters"] == {
        "release": "3",
        "variant": "student,teacher",
        "reason": "confident,escalated",
    }
    (output,) = body["outputs"]
    assert (output["name"], output["shape"]) == ("logits", [2, 3])
    assert output["data"] == pytest.approx([10, 0, 0, 100 + 128 / 25.5, 100 + 127 / 25.5, 100], rel=1e-6)
    assert response.headers["x-tandem-variant"] == response.headers["x-tandem-reason"] == "mixed"
    assert response.headers["x-tandem-release"] == "3"
    assert endpoint.ledger.records == [("3", "mixed", "mixed", 200)]


def test_the_headers_name_the_route_that_all_rows_share(endpoint):
    response = infer(endpoint, request(SURE, SURE))
    assert (response.headers["x-tandem-variant"], response.headers["x-tandem-reason"]) == ("student", "confident")


def test_binary_tensors_go_in_and_come_out(endpoint):
    raw = np.array([SURE, UNSURE], np.uint8).tobytes()
    head = request(SURE, UNSURE)
    del head["inputs"][0]["data"]
    head["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    head["outputs"] = [{"name": "logits", "parameters": {"binary_data": True}}]
    text = json.dumps(head).encode()
    response = endpoint.ask("POST", "/v2/models/tiny/infer", content=text + raw, headers={LENGTH: str(len(text))})
    assert response.status_code == 200
    answer = np.frombuffer(response.content[int(response.headers[LENGTH]) :], np.float32).reshape(2, 3)
    assert answer[0].tolist() == [10, 0, 0]
    assert response.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        ({}, ["logits"]),
        ({"parameters": {"probabilities": True}}, ["logits", "probabilities"]),
        ({"parameters": {"probabilities": False}}, ["logits"]),
        ({"outputs": [{"name": "probabilities"}]}, ["probabilities"]),
        ({"outputs": [{"name": "probabilities"}, {"name": "logits"}]}, ["probabilities", "logits"]),
    ],
)
def test_probabilities_are_sent_to_who_asks(endpoint, wish, names):
    outputs = infer(endpoint, request(SURE, **wish)).json()["outputs"]
    assert [output["name"] for output in outputs] == names
    for output in outputs:
        if output["name"] == "probabilities":
            assert sum(output["data"]) == pytest.approx(1, abs=1e-5)
            assert output["data"][0] == pytest.approx(1 / (1 + 2 * np.exp(-5)), rel=1e-4)


def test_the_client_chooses_the_mode_by_parameter_or_header(endpoint):
    by_parameter = infer(endpoint, request(SURE, parameters={"mode": "teacher"}))
    by_header = infer(endpoint, request(SURE), headers={"x-tandem-mode": "teacher"})
    for response in (by_parameter, by_header):
        assert (response.headers["x-tandem-variant"], response.headers["x-tandem-reason"]) == ("teacher", "pinned")


def test_a_key_sticks_to_its_release_and_keys_spread_over_both(endpoint):
    def release(key):
        return infer(endpoint, request(SURE, parameters={"ab_key": key}), "/v2/models/tiny/infer").json()[
            "model_version"
        ]

    assert len({release("ada") for _ in range(5)}) == 1
    assert {release(f"user-{i}") for i in range(20)} == {"3", "4"}


def test_the_student_stands_in_for_the_teacher(endpoint):
    endpoint.teacher.refuse = "unavailable"
    response = infer(endpoint, request(UNSURE))
    assert response.status_code == 200
    assert response.headers["x-tandem-reason"] == "fallback:unavailable"


@pytest.mark.parametrize(("reason", "status"), [("overload", 503), ("unavailable", 503), ("timeout", 504)])
def test_who_takes_no_fallback_is_told_when_to_come_back(endpoint, reason, status):
    endpoint.teacher.refuse = reason
    response = infer(endpoint, request(UNSURE, parameters={"allow_fallback": False}))
    assert response.status_code == status
    assert response.json() == {"error": f"the teacher says {reason}"}
    assert response.headers.get("retry-after") == ("3" if status == 503 else None)
    assert endpoint.ledger.records == [("", "", "", status)]


BAD_BODIES = {
    "no JSON": (b"{", 400),
    "empty": (b"", 400),
    "an array": (b"[]", 400),
    "no inputs": (b"{}", 400),
    "another name": (json.dumps({"inputs": [tensor(SURE, name="pixels")]}), 400),
    "another datatype": (json.dumps({"inputs": [tensor(SURE, datatype="FP32")]}), 400),
    "another shape": (json.dumps({"inputs": [tensor(SURE, shape=[1, 4])]}), 400),
    "too few numbers": (json.dumps({"inputs": [tensor(SURE, shape=[2, 1, 2, 2])]}), 400),
    "no whole number": (json.dumps({"inputs": [tensor([0.5, 0, 0, 0])]}), 400),
    "out of range": (json.dumps({"inputs": [tensor([256, 0, 0, 0])]}), 400),
    "not a number": (
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1,1,2,2], "data": [NaN,0,0,0]}]}',
        400,
    ),
    "too many rows": (json.dumps(request(*[SURE] * 5)), 413),
    "an oversized body": (b" " * 20_001, 413),
    "an unknown mode": (json.dumps(request(SURE, parameters={"mode": "fast"})), 400),
    "probabilities of no kind": (json.dumps(request(SURE, parameters={"probabilities": "yes"})), 400),
    "an unknown output": (json.dumps(request(SURE, outputs=[{"name": "label"}])), 400),
    "deep nesting": (b'{"inputs": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_inference_request_gets_a_4xx_that_says_why(endpoint, name):
    content, status = BAD_BODIES[name]
    response = endpoint.ask("POST", "/v2/models/tiny/infer", content=content)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert len(response.json()["error"]) > 20
    assert infer(endpoint, request(SURE)).status_code == 200


@pytest.mark.parametrize(("length", "body"), [("9999", b"{}"), ("-1", b"{}"), ("x", b"{}"), ("2", b"{}extra")])
def test_a_wrong_header_length_or_truncated_binary_gets_a_400(endpoint, length, body):
    response = endpoint.ask("POST", "/v2/models/tiny/infer", content=body, headers={LENGTH: length})
    assert response.status_code == 400
    assert "error" in response.json()


def test_a_truncated_binary_tensor_gets_a_400(endpoint):
    head = request(SURE)
    del head["inputs"][0]["data"]
    head["inputs"][0]["parameters"] = {"binary_data_size": 4}
    text = json.dumps(head).encode()
    response = endpoint.ask("POST", "/v2/models/tiny/infer", content=text + b"\0\0", headers={LENGTH: str(len(text))})
    assert response.status_code == 400
    assert "needs 4 bytes but 2 are left" in response.json()["error"]


def test_an_oversized_body_is_refused_before_it_is_read(endpoint):
    sent = []

    async def endless():
        for _ in range(1_000):
            sent.append(1)
            yield b" " * 1_000

    response = endpoint.ask("POST", "/v2/models/tiny/infer", content=endless())
    assert response.status_code == 413
    assert len(sent) <= 22


def test_a_compressed_body_is_refused(endpoint):
    response = endpoint.ask("POST", "/v2/models/tiny/infer", content=b"x", headers={"content-encoding": "gzip"})
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/tiny/versions/9", 404),
        ("GET", "/v2/models/tiny/versions/x/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/tiny/versions/9/infer", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("DELETE", "/v2", 405),
        ("POST", "/v1/models/other:predict", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/static/../web.py", 404),
        ("GET", "/static/absent.js", 404),
    ],
)
def test_an_unknown_path_model_or_method_gets_json_too(endpoint, method, path, status):
    response = endpoint.ask(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_metadata_names_the_model_its_tensors_and_its_versions(endpoint):
    assert "binary_tensor_data" in endpoint.ask("GET", "/v2").json()["extensions"]
    metadata = endpoint.ask("GET", "/v2/models/tiny").json()
    assert metadata["versions"] == ["3", "4"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 2, 2]}]
    assert [output["name"] for output in metadata["outputs"]] == ["logits", "probabilities"]
    assert endpoint.ask("GET", "/v2/models/tiny/versions/4").json()["versions"] == ["4"]
    config = endpoint.ask("GET", "/v2/models/tiny/config").json()
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [1, 2, 2])
    assert endpoint.ask("GET", "/v1/models/tiny").json()["labels"] == ["a", "b", "c"]
    models = [endpoint.ask("GET", f"/v1/models/{name}").json() for name in ("tiny", "second")]
    assert endpoint.ask("GET", "/v1/models").json() == {"models": models}


def test_each_model_of_the_endpoint_answers_under_its_own_name(endpoint):
    assert endpoint.ask("GET", "/v2/models/second").json()["versions"] == ["9"]
    answer = infer(endpoint, request(SURE), path="/v2/models/second/infer").json()
    assert (answer["model_name"], answer["model_version"]) == ("second", "9")
    response = infer(endpoint, request(SURE), path="/v2/models/second/versions/3/infer")
    assert (response.status_code, response.json()["error"]) == (
        404,
        "version '3' of 'second' is not served; served are 9",
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
    ],
)
def test_health_is_a_status_and_for_those_who_read_it_a_body(endpoint, path, body):
    response = endpoint.ask("GET", path)
    assert (response.status_code, response.json()) == (200, body)


@pytest.mark.parametrize(
    "upload",
    [
        {"content": png(), "headers": {"content-type": "image/png"}},
        {"content": png(), "headers": {"content-type": "application/x-www-form-urlencoded"}},
        {"files": {"file": ("digit.png", png(), "image/png")}},
    ],
)
def test_a_person_sends_an_image_and_gets_labels(endpoint, upload):
    response = endpoint.ask("POST", "/v1/models/tiny:predict", **upload)
    assert response.status_code == 200
    answer = response.json()
    assert (answer["model"], answer["variant"], answer["reason"]) == ("tiny", "teacher", "escalated")
    assert answer["release"] in ("3", "4")
    assert answer["release"] == response.headers["x-tandem-release"]
    assert sorted(item["label"] for item in answer["predictions"]) == ["a", "b", "c"]
    probabilities = [item["probability"] for item in answer["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert answer["latency_ms"] > 0


def test_a_prediction_obeys_the_headers(endpoint):
    headers = {"x-tandem-mode": "student", "content-type": "image/png"}
    answer = endpoint.ask("POST", "/v1/models/tiny:predict", content=png(), headers=headers).json()
    assert (answer["variant"], answer["reason"]) == ("student", "pinned")


def test_few_images_are_decoded_at_a_time_however_many_arrive():
    open_now, most = [], []

    class Slow(Encoder):
        def encode(self, payload):
            open_now.append(payload)
            most.append(len(open_now))
            time.sleep(0.02)
            open_now.pop()
            return super().encode(payload)

    async def send():
        transport = httpx.ASGITransport(Served(Slow(IMAGE)).app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tandem") as client:
            return await asyncio.gather(*(client.post("/v1/models/tiny:predict", content=png()) for _ in range(8)))

    assert {response.status_code for response in asyncio.run(send())} == {200}
    assert (len(most), max(most)) == (8, MAX_DECODING)


def gif():
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "GIF")
    return file.getvalue()


BAD_UPLOADS = {
    "empty": ({"content": b""}, "empty"),
    "no image": ({"content": b"hello"}, "not a PNG or JPEG"),
    "a GIF": ({"content": gif()}, "not a PNG or JPEG"),
    "half an image": ({"content": png(64, 64, 9)[:60]}, ""),
    "a bomb": ({"content": png(6_000, 6_000)}, "pixels"),
    "JSON for an image model": ({"json": {"text": "hello"}}, "reads images"),
    "broken JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, "not valid JSON"),
    "a form without file": ({"files": {"picture": ("x.png", png())}}, "field 'file'"),
    "an empty file": ({"files": {"file": ("x.png", b"")}}, "field 'file'"),
    "two files": ({"files": [("file", ("a", png())), ("file", ("b", png()))]}, "form cannot be read"),
    "a form without boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "form"),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_a_bad_upload_gets_a_400_that_says_why(name):
    endpoint = Served(Encoder(IMAGE), max_body_bytes=100_000)
    upload, message = BAD_UPLOADS[name]
    response = endpoint.ask("POST", "/v1/models/tiny:predict", **upload)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]


def test_an_oversized_upload_gets_a_413(endpoint):
    assert endpoint.ask("POST", "/v1/models/tiny:predict", content=b"x" * 20_001).status_code == 413


@pytest.mark.parametrize(
    "upload",
    [
        {"json": {"text": "good bad"}},
        {"content": b"good bad", "headers": {"content-type": "text/plain"}},
        {"files": {"text": (None, "good bad")}},
        {"files": {"file": ("x.txt", b"good bad")}},
    ],
)
def test_a_person_sends_a_text_and_gets_labels(text_endpoint, upload):
    response = text_endpoint.ask("POST", "/v1/models/tiny:predict", **upload)
    assert response.status_code == 200, response.text
    assert response.json()["predictions"][0]["label"] == "y"


@pytest.mark.parametrize(
    "upload",
    [
        {"json": {"text": 5}},
        {"json": {"words": "good"}},
        {"json": ["good"]},
        {"json": {"text": ""}},
        {"json": {"text": " "}},
        {"content": b"\xff\xfe", "headers": {"content-type": "text/plain"}},
        {"content": b'{"text": "\\ud800"}', "headers": {"content-type": "application/json"}},
        {"json": {"text": "x" * 100_001}},
    ],
)
def test_a_bad_text_gets_a_400(text_endpoint, upload):
    response = text_endpoint.ask("POST", "/v1/models/tiny:predict", **upload)
    assert response.status_code == 400, response.text
    assert "error" in response.json()


@pytest.mark.parametrize(("tokens", "message"), [([2, 4], "0 to 3"), ([-1, 2], "0 to 3"), ([2] * 6, "reads 5")])
def test_tokens_that_the_model_cannot_look_up_get_a_400(text_endpoint, tokens, message):
    body = {"inputs": [{"name": "tokens", "datatype": "INT64", "shape": [1, len(tokens)], "data": tokens}]}
    response = infer(text_endpoint, body)
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_the_openapi_document_describes_bodies_and_answers(endpoint):
    document = endpoint.ask("GET", "/openapi.json").json()
    post = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert set(post["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
    assert {"200", "400", "404", "413", "503", "504"} <= set(post["responses"])
    assert "image/png" in document["paths"]["/v1/models/{model}:predict"]["post"]["requestBody"]["content"]
    operations = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(operations) == len(set(operations))


def test_the_openapi_page_loads_nothing_from_elsewhere(endpoint):
    page = endpoint.ask("GET", "/docs")
    if page.status_code == 404:
        pytest.skip("flask-swagger-ui is not installed")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    for path in ("/docs/start.js", "/docs/files/swagger-ui-bundle.js", "/docs/files/swagger-ui.css"):
        assert path in page.text or path.endswith(".js")
        assert endpoint.ask("GET", path).status_code == 200
