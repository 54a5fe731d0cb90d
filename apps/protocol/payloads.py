"""Payloads: the texts and image files of a V2 request to the rows that its model reads."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace

from apps.protocol.request import InferRequest
from training.encoding import Array, Encoder, PayloadError, TextEncoding

logger = logging.getLogger("ray.serve")


async def encode_payloads(request: InferRequest, encoder: Encoder, decoders: Executor) -> InferRequest:
    """`request` with its payloads turned into the model's input by `decoders`; as it is where it has none.

    Raises PayloadError. A request that is cancelled decodes no more.
    """
    if not request.payloads:
        return request
    given_up = threading.Event()
    try:
        rows = await asyncio.get_running_loop().run_in_executor(
            decoders, _encode_all, encoder, request.payloads, given_up
        )
    finally:
        given_up.set()
    return replace(request, inputs={encoder.encoding.input_spec.name: rows}, payloads=())


def encode_payload(encoder: Encoder, payload: bytes | str) -> Array:
    """One text or image file to its array; raises PayloadError, whatever the file does to its decoder."""
    try:
        return encoder.encode(payload)
    except PayloadError:
        raise
    except Exception as error:  # a decoder that stumbles over a file is the file's fault as far as a client sees
        logger.warning("a payload of %d could not be read: %r", len(payload), error)
        raise PayloadError(f"the payload cannot be read: {type(error).__name__}") from error


def _encode_all(encoder: Encoder, payloads: Sequence[bytes], given_up: threading.Event) -> Array:
    is_text = isinstance(encoder.encoding, TextEncoding)
    arrays = []
    for position, payload in enumerate(payloads):
        if given_up.is_set():
            raise PayloadError("the request was given up while its payloads were read")
        try:
            arrays.append(encode_payload(encoder, _text(payload) if is_text else payload))
        except PayloadError as error:
            if len(payloads) == 1:
                raise
            raise PayloadError(f"payload {position}: {error}") from error
    return encoder.collate(arrays)


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise PayloadError(f"the text is not UTF-8: {error.reason} at byte {error.start}") from error
