"""HTTP answers that leave in one piece, and requests that end with their client."""

import asyncio

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import ServerState

from apps.http_server import improve_http_server

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}


class Transport(asyncio.Transport):
    def __init__(self):
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = []
        self.closed_after = None

    def write(self, data):
        self.written.append(bytes(data))

    def close(self):
        self.closed_after = len(self.written)

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def is_closing(self):
        return self.closed_after is not None


@pytest.fixture
def answered(monkeypatch):
    """`answered(app, request)` gives the transport, with the pieces that the app's answer left in."""
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", httptools_impl.RequestResponseCycle)
    improve_http_server()
    improve_http_server()

    def answered(app, request=b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", gone_after_s=None):
        async def serve():
            config = uvicorn.Config(app, http="httptools", access_log=False, log_config=None)
            config.load()
            protocol, transport = httptools_impl.HttpToolsProtocol(config, ServerState(), {}), Transport()
            protocol.connection_made(transport)
            protocol.data_received(request)
            if gone_after_s is not None:
                await asyncio.sleep(gone_after_s)
                protocol.connection_lost(None)
            while protocol.tasks:
                await asyncio.gather(*protocol.tasks)
            if gone_after_s is None:
                protocol.connection_lost(None)
            return transport

        return asyncio.run(serve())

    return answered


async def whole(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": b"body"})


def test_head_and_body_leave_together(answered):
    (piece,) = answered(whole).written
    assert piece.startswith(b"HTTP/1.1 200") and piece.endswith(b"\r\n\r\nbody")


def test_so_they_do_again_on_the_same_connection_and_when_it_closes(answered):
    request = b"GET / HTTP/1.1\r\n\r\n"
    transport = answered(whole, request + b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert [piece.endswith(b"\r\n\r\nbody") for piece in transport.written] == [True, True]
    assert transport.closed_after == 2


def test_a_streams_head_does_not_wait_for_its_first_piece(answered):
    seen = []

    async def stream(scope, receive, send):
        await send(START)
        await asyncio.sleep(0.02)
        seen.append(1)
        await send({"type": "http.response.body", "body": b"bo", "more_body": True})
        await send({"type": "http.response.body", "body": b"dy"})

    pieces = answered(stream).written
    assert seen and pieces[0].endswith(b"\r\n\r\n") and pieces[1:] == [b"bo", b"dy"]


def test_an_answer_without_a_body_leaves(answered):
    async def head(scope, receive, send):
        await send(START)
        await send({"type": "http.response.body", "body": b""})

    (piece,) = answered(head, b"HEAD / HTTP/1.1\r\n\r\n").written
    assert piece.endswith(b"\r\n\r\n")


def test_an_app_that_fails_after_the_head_leaves_no_half_of_it(answered):
    async def failing(scope, receive, send):
        await send(START)
        raise RuntimeError("gone")

    transport = answered(failing)
    assert transport.closed_after == 1 and transport.written[0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "request_bytes", [b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf"]
)
def test_a_client_that_goes_away_cancels_its_request(answered, caplog, request_bytes):
    ended = []

    async def waiting(scope, receive, send):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    assert answered(waiting, request_bytes, gone_after_s=0.02).written == []
    assert ended == ["cancelled"]
    assert not caplog.records


def test_a_client_that_goes_after_its_answer_cancels_nothing(answered):
    ended = []

    async def tidying(scope, receive, send):
        await whole(scope, receive, send)
        await asyncio.sleep(0.05)
        ended.append("tidied")

    assert len(answered(tidying, gone_after_s=0.02).written) == 1
    assert ended == ["tidied"]


def test_who_cancels_the_task_itself_is_not_taken_for_the_client(answered, caplog):
    async def cancelled(scope, receive, send):
        raise asyncio.CancelledError

    assert answered(cancelled).written[0].startswith(b"HTTP/1.1 500")
    assert "Exception in ASGI application" in caplog.text


def test_serve_is_told_that_it_need_not_watch(answered):
    from ray.serve._private.http_util import parse_disconnect_disabled_header

    told = []

    async def telling(scope, receive, send):
        told.append(parse_disconnect_disabled_header(dict(scope["headers"])))
        await whole(scope, receive, send)

    answered(telling)
    assert told == [True]
