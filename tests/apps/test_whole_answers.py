"""HTTP answers that leave in one piece."""

import asyncio

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import ServerState

from apps.whole_answers import answer_whole

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
    """What the pieces are that an app's answer leaves in: `answered(app, request)` gives the transport."""
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", httptools_impl.RequestResponseCycle)
    answer_whole()
    answer_whole()

    def answered(app, request=b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"):
        async def serve():
            config = uvicorn.Config(app, http="httptools", access_log=False, log_config=None)
            config.load()
            protocol, transport = httptools_impl.HttpToolsProtocol(config, ServerState(), {}), Transport()
            protocol.connection_made(transport)
            protocol.data_received(request)
            while protocol.tasks:
                await asyncio.gather(*protocol.tasks)
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
