"""The body of a request: read up to a limit, and what a person sends in it."""

from collections.abc import AsyncGenerator, Mapping

import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from apps.protocol.tensors import ProtocolError

MAX_FORM_FIELDS = 8


async def read_body(headers: Mapping[str, str], receive: Receive, max_bytes: int) -> bytes:
    """The whole body; the names of `headers` are in lower case.

    Raises ProtocolError 413 as soon as it is known to be larger than `max_bytes`, and ClientDisconnect.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise ProtocolError(f"content-encoding is {encoding[:40]!r}; send the body uncompressed", status=415)
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > max_bytes):
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else bytes(chunk)
        chunks.append(chunk)


def _too_large(max_bytes: int) -> ProtocolError:
    return ProtocolError(f"the body is larger than the {max_bytes} bytes that are read", status=413)


async def read_payload(body: bytes, headers: Headers, wants_text: bool) -> bytes | str:
    """The text or the image file in a body of JSON, multipart or nothing but the payload; raises ProtocolError."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        raise ProtocolError(f"the body is empty; {_advice(wants_text)}")
    if content_type == "multipart/form-data":
        return await _from_form(body, headers, wants_text)
    if content_type == "application/json":
        return _from_json(body, wants_text)
    return _decoded(body) if wants_text else body


def _from_json(body: bytes, wants_text: bool) -> str:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the body is not valid JSON: {error}") from error
    if not wants_text:
        raise ProtocolError(f"this model reads images and the body is JSON; {_advice(wants_text)}")
    text = data.get("text") if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise ProtocolError('the JSON has no field "text" with a string; send {"text": "..."}')
    return text


async def _from_form(body: bytes, headers: Headers, wants_text: bool) -> bytes | str:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(
            headers, stream(), max_files=1, max_fields=MAX_FORM_FIELDS, max_part_size=len(body)
        ).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", None) or repr(error)
        raise ProtocolError(f"the multipart form cannot be read: {message}") from error
    try:
        if wants_text and isinstance(text := form.get("text"), str):
            return text
        part = form.get("file")
        content = await part.read() if isinstance(part, UploadFile) else b""
    finally:
        await form.close()
    if not content:
        raise ProtocolError(f"the multipart form has no file of any content in a field 'file'; {_advice(wants_text)}")
    return _decoded(content) if wants_text else content


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the text is not UTF-8: {error.reason} at byte {error.start}") from error


def _advice(wants_text: bool) -> str:
    if wants_text:
        return 'send {"text": "..."} as application/json, or the text itself as text/plain'
    return "send a PNG or JPEG file as the body, or in the field 'file' of a multipart form"
