"""The body of a request is read up to its limit, and no shape of it costs more than a sentence on what is wrong."""

import asyncio
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import Request

from apps.body import read_body, read_payload
from apps.protocol.rest import ProtocolError, parse_infer
from training.encoding import TensorSpec

BOUNDED = settings(max_examples=150, deadline=None, database=None, derandomize=True)
INPUTS = (TensorSpec("image", "UINT8", (-1, 1, 2, 2)),)
OUTPUTS = (TensorSpec("logits", "FP32", (-1, 3)),)
JSON_HEADERS = Headers({"content-type": "application/json"})
# What orjson reads; its parser stops there, so that a deeper document costs no second look.
MAX_JSON_DEPTH = 1024


def received(*chunks, headers=()):
    """A request whose body arrives in `chunks`."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": list(headers)}, receive), messages


def read(*chunks, limit=10, headers=()):
    request, left = received(*chunks, headers=headers)
    return asyncio.run(read_body(request.headers, request.receive, limit)), left


def test_a_body_up_to_the_limit_is_read_whole():
    assert read(b"12345", b"", b"67890")[0] == b"1234567890"


def test_a_body_beyond_it_is_given_up_as_soon_as_that_is_known():
    request, left = received(*[b"12345"] * 50)
    with pytest.raises(ProtocolError) as refused:
        asyncio.run(read_body(request.headers, request.receive, 10))
    assert (refused.value.status, len(left)) == (413, 48)
    request, left = received(b"1", headers=[(b"content-length", b"11")])
    with pytest.raises(ProtocolError) as refused:
        asyncio.run(read_body(request.headers, request.receive, 10))
    assert (refused.value.status, len(left)) == (413, 2)


@BOUNDED
@given(st.binary(max_size=30), st.lists(st.binary(max_size=8), max_size=4))
def test_no_content_length_breaks_the_reading(length, chunks):
    try:
        body, _ = read(*chunks, headers=[(b"content-length", length)])
    except ProtocolError as error:
        assert error.status == 413
    else:
        assert body == b"".join(chunks)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 1_000_000])
def test_json_nested_too_deep_is_refused_in_no_time(opening, depth):
    body = opening * depth
    for parse in (
        lambda: parse_infer(body, None, INPUTS, OUTPUTS, 4),
        lambda: asyncio.run(read_payload(body, JSON_HEADERS, wants_text=True)),
    ):
        started = time.perf_counter()
        with pytest.raises(ProtocolError, match="not valid JSON") as refused:
            parse()
        assert time.perf_counter() - started < 0.5
        assert refused.value.status == 400


@pytest.mark.parametrize("depth", [10, 300, MAX_JSON_DEPTH - 4])
def test_json_as_deep_as_the_parser_reads_breaks_nothing_behind_it(depth):
    """Nothing of ours follows a document down by recursion, an error message included."""
    deep = b"[" * depth + b"]" * depth
    entry = b'{"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": %b}'
    for body in (
        deep,
        b'{"inputs": %b}' % deep,
        b'{"inputs": [%b]}' % (entry % deep),
        b'{"inputs": [{"name": %b}]}' % deep,
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": %b}]}' % deep,
        b'{"parameters": {"mode": %b}, "inputs": [%b]}' % (deep, entry % b"[1, 2, 3, 4]"),
        b'{"id": %b, "inputs": [%b]}' % (deep, entry % b"[1, 2, 3, 4]"),
        b'{"outputs": [%b], "inputs": [%b]}' % (deep, entry % b"[1, 2, 3, 4]"),
    ):
        assert orjson.loads(body) is not None
        with pytest.raises(ProtocolError) as refused:
            parse_infer(body, None, INPUTS, OUTPUTS, 4)
        assert refused.value.status == 400
        assert len(str(refused.value)) < 400
    with pytest.raises(ProtocolError):
        asyncio.run(read_payload(b'{"text": %b}' % deep, JSON_HEADERS, wants_text=True))


@BOUNDED
@given(
    st.binary(max_size=300),
    st.one_of(
        st.sampled_from(["application/json", "text/plain", "image/png", "multipart/form-data; boundary=x"]),
        st.text(st.characters(max_codepoint=255), max_size=60).map(lambda rest: f"multipart/form-data; {rest}"),
        st.text(st.characters(max_codepoint=255), max_size=60),
    ),
    st.booleans(),
)
def test_whatever_a_person_sends_it_is_a_payload_or_the_clients_fault(body, content_type, wants_text):
    try:
        payload = asyncio.run(read_payload(body, Headers({"content-type": content_type}), wants_text))
    except ProtocolError as error:
        assert error.status == 400
    else:
        assert isinstance(payload, str if wants_text else bytes)


@BOUNDED
@given(st.binary(max_size=400), st.sampled_from(["file", "text", 'x"; filename="a']), st.booleans())
def test_a_form_is_a_payload_or_the_clients_fault(content, name, wants_text):
    body = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--x--\r\n' % (name.encode(), content)
    headers = Headers({"content-type": "multipart/form-data; boundary=x"})
    try:
        payload = asyncio.run(read_payload(body, headers, wants_text))
    except ProtocolError as error:
        assert error.status == 400
    else:
        assert isinstance(payload, str if wants_text else bytes)
