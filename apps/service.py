"""Service: the bytes of one request to the bytes of its answer, between the protocols and the Router."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson
from starlette.datastructures import Headers

from apps.body import read_payload
from apps.observe.account import Account, Books
from apps.protocol.controls import read_ask
from apps.protocol.payloads import encode_payload, encode_payloads
from apps.protocol.request import InferRequest, offered_outputs, settle
from apps.protocol.rest import encode_infer, parse_infer
from apps.protocol.tensors import HEADER_LENGTH
from apps.router import Answer, Router
from training.encoding import Array, Encoder, TensorSpec, TextEncoding, output_spec

# Headers come with names in lower case.
_HEADER_LENGTH = HEADER_LENGTH.lower()

# Parsing a larger body takes long enough to hold up the other requests of the event loop.
LARGE_BODY_BYTES = 200_000

# A small file may decode to hundreds of megabytes: no more files than this are open at a time.
MAX_DECODING = 2


@dataclass(frozen=True)
class Reply:
    """An answer of status 200."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answered:
    """What every protocol encodes: `outputs` hold what the request names, `parameters` say who answered and why."""

    outputs: dict[str, Array]
    parameters: dict[str, str]
    answer: Answer


@dataclass(frozen=True)
class Service:
    """One model's endpoint. `about` is what GET /v1/models/{m} answers."""

    model: str
    encoder: Encoder
    router: Router
    about: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int = 256
    books: Books = field(default_factory=lambda: Books(""))
    decoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_DECODING, thread_name_prefix="decoder"), init=False, repr=False
    )

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (self.encoder.encoding.input_spec,)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Probabilities are there for those who ask."""
        logits = output_spec(self.encoder.encoding)
        return (logits, TensorSpec("probabilities", logits.datatype, logits.shape))

    @property
    def versions(self) -> list[str]:
        return [str(arm.number) for arm in self.router.arms]

    async def infer(self, body: bytes, headers: Mapping[str, str], release: int | None, account: Account) -> Reply:
        """A V2 inference request; raises ProtocolError, PayloadError, RefusedError or UnknownReleaseError."""
        if len(body) > LARGE_BODY_BYTES:
            # Few at a time: JSON takes many times its size in memory.
            loop = asyncio.get_running_loop()
            request = await loop.run_in_executor(self.decoders, self._parse, body, headers)
        else:
            request = self._parse(body, headers)
        request = await encode_payloads(request, self.encoder, self.decoders)
        account.parsed()
        answered = await self.answer(request, headers, release)
        began = time.perf_counter()
        version = str(answered.answer.release)
        encoded, encoded_headers = encode_infer(request, self.model, version, answered.outputs, answered.parameters)
        return self._reply(encoded, encoded_headers, answered.answer, account, began)

    async def answer(self, request: InferRequest, headers: Mapping[str, str], release: int | None) -> Answered:
        """A parsed request, by whatever protocol it came, to its outputs; raises as `infer` does."""
        ask = read_ask(request.inputs[self.inputs[0].name], headers, request.parameters, release)
        answer = await self.router.answer(ask)
        outputs: dict[str, Array] = {"logits": answer.logits}
        if any(output.name == "probabilities" for output in request.outputs):
            outputs["probabilities"] = answer.probabilities()
        parameters = {
            "release": str(answer.release),
            "variant": ",".join([route.variant for route in answer.routes]),
            "reason": ",".join([route.reason for route in answer.routes]),
        }
        return Answered(outputs, parameters, answer)

    async def predict(self, body: bytes, headers: Headers, account: Account) -> Reply:
        """An image file or a text to labels with probabilities; raises as `infer` does."""
        started = time.perf_counter()
        payload = await read_payload(body, headers, isinstance(self.encoder.encoding, TextEncoding))
        row = await asyncio.get_running_loop().run_in_executor(self.decoders, encode_payload, self.encoder, payload)
        account.parsed()
        answer = await self.router.answer(read_ask(row[None], headers, {}, None))
        began = time.perf_counter()
        route = answer.routes[0]
        temperature = answer.temperature if route.variant == "student" else 1.0
        labels = self.encoder.answer(answer.logits[0], temperature)
        data = {
            "model": self.model,
            "release": str(answer.release),
            "variant": route.variant,
            "reason": route.reason,
            "predictions": [{"label": item.label, "probability": item.probability} for item in labels],
            "latency_ms": round((began - started) * 1e3, 3),
        }
        return self._reply(orjson.dumps(data), {"Content-Type": "application/json"}, answer, account, began)

    def _parse(self, body: bytes, headers: Mapping[str, str]) -> InferRequest:
        offered = offered_outputs(self.outputs, mentioned=b"probabilities" in body)
        request = parse_infer(
            body, headers.get(_HEADER_LENGTH), self.inputs, offered, self.max_rows, takes_payloads=True
        )
        return settle(request, self.encoder.encoding, self.encoder.vocabulary_size)

    def _reply(self, body: bytes, headers: Mapping[str, str], answer: Answer, account: Account, began: float) -> Reply:
        # Ray Serve itself gives an HTTP request its id and sends it back.
        told = {
            "x-tandem-variant": answer.variant,
            "x-tandem-reason": answer.reason,
            "x-tandem-release": str(answer.release),
        }
        account.answered(answer, time.perf_counter() - began)
        return Reply(body, {**headers, **told})
