"""AccessGate before an ASGI app: what is open, what a refusal looks like, and which model a path is about."""

import asyncio

import httpx
import pytest
from starlette.responses import JSONResponse

from apps.access.check import Access
from apps.access.file import KeyFile, new_key
from apps.access.gate import CALLER, AccessGate, model_in, route_path


class Memory:
    def __init__(self, *records):
        self.content = KeyFile(keys=records).model_dump_json().encode()

    def stamp(self):
        return None

    def read(self):
        return self.content


async def app(scope, receive, send):
    caller = scope.get(CALLER)
    await JSONResponse({"caller": None if caller is None else caller.name})(scope, receive, send)


@pytest.fixture
def ask():
    key, record = new_key("ada", rate_per_s=1, burst=3, models=("tiny",))
    gate = AccessGate(app, Access(Memory(record)))

    def ask(path, method="GET", key=key, **rest):
        async def send():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://tandem") as client:
                return await client.request(method, path, headers={"X-API-Key": key} if key else {}, **rest)

        return asyncio.run(send())

    return ask


def test_probes_need_no_key(ask):
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(path, key=None).json() == {"caller": None}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/static/page.js",
        "/metrics",
        "/v1/models",
        "/v2",
        "/v2/",
        "/v2/models/tiny/ready",
        "/v2/models/tiny/infer",
        "/v2/health/live/",
        "//v2/health/live",
        "/v2/health/live/../../models/tiny",
    ],
)
def test_everything_else_needs_one(ask, path):
    response = ask(path, key=None)
    assert response.status_code == 401
    assert "API key" in response.json()["error"]
    assert "Bearer" in response.headers["www-authenticate"]


def test_the_app_is_told_who_asks(ask):
    assert ask("/v2/models/tiny/infer", "POST", content=b"x" * 100_000).json() == {"caller": "ada"}


def test_another_model_is_forbidden_and_a_limit_says_when_to_come_back(ask):
    for path in ("/v2/models/other/infer", "/v2/models/other/versions/1/infer", "/v1/models/other:predict"):
        response = ask(path, "POST", content=b"{}")
        assert (response.status_code, "'other'" in response.json()["error"]) == (403, True)
    statuses = [ask("/v1/models/tiny:predict", "POST").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    limited = ask("/v2")
    assert int(limited.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/tiny", "tiny"),
        ("/v2/models/tiny/infer", "tiny"),
        ("/v2/models/tiny/versions/3/infer", "tiny"),
        ("/v1/models/tiny", "tiny"),
        ("/v1/models/tiny:predict", "tiny"),
        ("/v2/models/", ""),
        ("/v2/models", None),
        ("/v1/models", None),
        ("/v2", None),
        ("/", None),
        ("", None),
        ("/docs", None),
    ],
)
def test_the_model_is_read_off_the_path(path, model):
    assert model_in(path) == model


def test_a_prefix_of_the_application_is_left_out():
    assert route_path({"path": "/a/v2/health/live", "root_path": "/a"}) == "/v2/health/live"
    assert route_path({"path": "/ab/v2", "root_path": "/a"}) == "/ab/v2"
    assert route_path({"path": "/v2", "root_path": ""}) == "/v2"


def test_a_websocket_is_closed_and_the_lifespan_passes():
    _, record = new_key("ada")
    seen, sent = [], []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    async def send(message):
        sent.append(message)

    gate = AccessGate(inner, Access(Memory(record)))
    asyncio.run(gate({"type": "websocket", "path": "/", "headers": []}, None, send))
    asyncio.run(gate({"type": "lifespan"}, None, send))
    assert (seen, sent[0]["type"], sent[0]["code"]) == (["lifespan"], "websocket.close", 1008)
