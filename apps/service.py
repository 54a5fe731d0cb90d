"""Service: the bytes of one request to the bytes of its answer, between the protocols and the Router."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import orjson
from starlette.datastructures import Headers

from apps.body import read_payload
from apps.controls import read_ask
from apps.meter import Meter, NoMeter
from apps.protocol import HEADER_LENGTH, InferRequest, ProtocolError, encode_infer, parse_infer
from apps.router import Answer, Router
from training.encoding import Array, Encoder, PayloadError, TensorSpec, TextEncoding, output_spec

logger = logging.getLogger("ray.serve")

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
    meter: Meter = field(default_factory=NoMeter)
    _decoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_DECODING, thread_name_prefix="decoder"), init=False, repr=False
    )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (self.encoder.encoding.input_spec,)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Probabilities are there for those who ask."""
        logits = output_spec(self.encoder.encoding)
        return (logits, TensorSpec("probabilities", logits.datatype, logits.shape))

    @cached_property
    def _vocabulary_size(self) -> int:
        return self.encoder.vocabulary_size or 0

    @property
    def versions(self) -> list[str]:
        return [str(arm.number) for arm in self.router.arms]

    async def infer(self, body: bytes, headers: Mapping[str, str], release: int | None) -> Reply:
        """A V2 inference request; raises ProtocolError, RefusedError or UnknownReleaseError."""
        started = time.perf_counter()
        if len(body) > LARGE_BODY_BYTES:
            request = await asyncio.to_thread(self._parse, body, headers)
        else:
            request = self._parse(body, headers)
        answered = await self.answer(request, headers, release)
        version = str(answered.answer.release)
        encoded, encoded_headers = encode_infer(request, self.model, version, answered.outputs, answered.parameters)
        return self._reply(encoded, encoded_headers, answered.answer, started)

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

    async def predict(self, body: bytes, headers: Headers) -> Reply:
        """An image file or a text to labels with probabilities; raises as `infer` does, and PayloadError."""
        started = time.perf_counter()
        payload = await read_payload(body, headers, isinstance(self.encoder.encoding, TextEncoding))
        row = await asyncio.get_running_loop().run_in_executor(self._decoders, self._encode, payload)
        answer = await self.router.answer(read_ask(row[None], headers, {}, None))
        route = answer.routes[0]
        temperature = answer.temperature if route.variant == "student" else 1.0
        labels = self.encoder.answer(answer.logits[0], temperature)
        data = {
            "model": self.model,
            "release": str(answer.release),
            "variant": route.variant,
            "reason": route.reason,
            "predictions": [{"label": item.label, "probability": item.probability} for item in labels],
            "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
        }
        return self._reply(orjson.dumps(data), {"Content-Type": "application/json"}, answer, started)

    def _parse(self, body: bytes, headers: Mapping[str, str]) -> InferRequest:
        # A client that names no output gets all that are offered: probabilities are offered where they are mentioned.
        offered = self.outputs if b"probabilities" in body else self.outputs[:1]
        request = parse_infer(body, headers.get(_HEADER_LENGTH), self.inputs, offered, self.max_rows)
        wanted = request.parameters.get("probabilities", True)
        if not isinstance(wanted, bool):
            raise ProtocolError(f"parameter probabilities is {wanted!r}; send true or false")
        if not wanted:
            named = tuple(output for output in request.outputs if output.name != "probabilities")
            request = replace(request, outputs=named or request.outputs)
        if isinstance(self.encoder.encoding, TextEncoding):
            self._check_tokens(request.inputs[self.inputs[0].name], self.encoder.encoding)
        return request

    def _check_tokens(self, tokens_BL: Array, encoding: TextEncoding) -> None:
        name, length = self.inputs[0].name, tokens_BL.shape[1]
        if length > encoding.max_tokens:
            raise ProtocolError(f"input {name!r} has {length} tokens a row; this model reads {encoding.max_tokens}")
        low, high, known = int(tokens_BL.min()), int(tokens_BL.max()), self._vocabulary_size
        if low < 0 or high >= known:
            raise ProtocolError(f"input {name!r} holds token ids {low} to {high}; this model knows 0 to {known - 1}")

    def _encode(self, payload: bytes | str) -> Array:
        try:
            return self.encoder.encode(payload)
        except PayloadError:
            raise
        except Exception as error:  # a decoder that stumbles over a file is the file's fault as far as a client sees
            logger.warning("a payload of %d could not be read: %r", len(payload), error)
            raise PayloadError(f"the payload cannot be read: {type(error).__name__}") from error

    def _reply(self, body: bytes, headers: Mapping[str, str], answer: Answer, started: float) -> Reply:
        variant = _common([route.variant for route in answer.routes])
        reason = _common([route.reason for route in answer.routes])
        release = str(answer.release)
        self.meter.record(release, variant, reason, 200, (time.perf_counter() - started) * 1e3)
        told = {"x-tandem-variant": variant, "x-tandem-reason": reason, "x-tandem-release": release}
        return Reply(body, {**headers, **told})


def _common(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else "mixed"
