"""Servicer: the methods of GRPCInferenceService over an Endpoint, as a Serve deployment has them.

A method that fails sets the call's status and returns an empty message: Ray Serve sends what is set along with an error
only then, and would log an exception with its traceback.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import grpc  # type: ignore[import-untyped]
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]

from apps.access.check import Access
from apps.endpoint import Endpoint
from apps.errors import EXPECTED, failure_of
from apps.front import GONE
from apps.observe.account import Account
from apps.observe.request_log import REQUEST_ID
from apps.protocol import grpc_protocol_pb2 as pb
from apps.protocol.controls import TIMEOUT_HEADER
from apps.protocol.grpc_codec import decode_infer, encode_infer, raw_bytes
from apps.protocol.grpc_door import REMAINING_METADATA
from apps.protocol.metadata import model_config, model_metadata, server_metadata
from apps.protocol.payloads import encode_payloads
from apps.protocol.request import InferRequest, offered_outputs, settle
from apps.protocol.tensors import ProtocolError
from apps.refusal import RefusedError
from apps.service import LARGE_BODY_BYTES, Service
from apps.web import PLATFORM, tandem_version

logger = logging.getLogger("ray.serve")

CODE_OF_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    # Not RESOURCE_EXHAUSTED: sent again it would be as large.
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Reply = TypeVar("Reply")


class Context(Protocol):
    """What is used of a call's context; Ray Serve's and grpc.aio's have it alike."""

    def invocation_metadata(self) -> Any: ...
    def set_code(self, code: Any) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, trailing_metadata: Any) -> None: ...


class Servicer:
    """`access` None lets everybody in. Health is told to everybody, as over REST."""

    def __init__(self, endpoint: Endpoint, access: Access | None = None) -> None:
        self._endpoint = endpoint
        self._access = access

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        def answer() -> pb.ModelReadyResponse:
            self._endpoint.find(request.name, request.version)
            return pb.ModelReadyResponse(ready=True)

        return self._told(pb.ModelReadyResponse, context, answer)

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        def answer() -> pb.ServerMetadataResponse:
            self._admit(headers_of(context), None)
            return _message(server_metadata(tandem_version()), pb.ServerMetadataResponse)

        return self._told(pb.ServerMetadataResponse, context, answer)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        def answer() -> pb.ModelMetadataResponse:
            self._admit(headers_of(context), request.name)
            service, release = self._endpoint.find(request.name, request.version)
            versions = service.versions if release is None else [str(release)]
            data = model_metadata(service.model, versions, PLATFORM, service.inputs, service.outputs)
            return _message(data, pb.ModelMetadataResponse)

        return self._told(pb.ModelMetadataResponse, context, answer)

    async def model_config(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        def answer() -> pb.ModelConfigResponse:
            self._admit(headers_of(context), request.name)
            service, _ = self._endpoint.find(request.name, request.version)
            data = model_config(service.model, PLATFORM, service.max_rows, service.inputs, service.outputs)
            return _message({"config": data}, pb.ModelConfigResponse)

        return self._told(pb.ModelConfigResponse, context, answer)

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Of every model where the request names none."""

        def answer() -> pb.ModelStatisticsResponse:
            self._admit(headers_of(context), request.name or None)
            names = [request.name] if request.name else list(self._endpoint.services)
            stats: list[Any] = []
            for name in names:
                service, release = self._endpoint.find(name, request.version)
                version = None if release is None else str(release)
                stats.extend(service.books.meter.statistics(service.versions, version)["model_stats"])
            return _message({"model_stats": stats}, pb.ModelStatisticsResponse)

        return self._told(pb.ModelStatisticsResponse, context, answer)

    async def model_infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        account: Account | None = None
        try:
            headers = headers_of(context)
            self._admit(headers, request.model_name)
            service, release = self._endpoint.find(request.model_name, request.model_version)
            account = Account(service.books, "grpc", headers)
            with account.span():
                return await self._infer(service, release, request, headers, context, account)
        except asyncio.CancelledError:
            if account is not None:
                account.failed(GONE)
            raise
        except Exception as error:
            status = fail(context, error)
            if account is not None:
                account.failed(status)
            return pb.ModelInferResponse()

    async def _infer(
        self,
        service: Service,
        release: int | None,
        message: pb.ModelInferRequest,
        headers: dict[str, str],
        context: Context,
        account: Account,
    ) -> pb.ModelInferResponse:
        size = raw_bytes(message)
        if size > self._endpoint.max_body_bytes:
            raise ProtocolError(
                f"the body is larger than the {self._endpoint.max_body_bytes} bytes that are read", status=413
            )
        if size > LARGE_BODY_BYTES:
            loop = asyncio.get_running_loop()
            request = await loop.run_in_executor(service.decoders, _decode, service, message)
        else:
            request = _decode(service, message)
        request = await encode_payloads(request, service.encoder, service.decoders)
        account.parsed()
        answered = await service.answer(request, _within_deadline(headers, request, service), release)
        answer, began = answered.answer, time.perf_counter()
        response = encode_infer(request, service.model, str(answer.release), answered.outputs, answered.parameters)
        context.set_trailing_metadata(
            [
                ("x-tandem-variant", answer.variant),
                ("x-tandem-reason", answer.reason),
                ("x-tandem-release", str(answer.release)),
                (REQUEST_ID, account.request_id),
            ]
        )
        account.answered(answer, time.perf_counter() - began)
        return response

    def _admit(self, headers: Mapping[str, str], model: str | None) -> None:
        if self._access is not None:
            self._access.check(headers, model)

    def _told(self, empty: type[Reply], context: Context, answer: Callable[[], Reply]) -> Reply:
        try:
            return answer()
        except Exception as error:
            fail(context, error)
            return empty()


def headers_of(context: Context) -> dict[str, str]:
    """The call's metadata by lower-case name, without what is binary; of a repeated one the last."""
    return {name.lower(): value for name, value in context.invocation_metadata() if isinstance(value, str)}


def fail(context: Context, error: Exception) -> int:
    """End the call with the status and the words that REST has for `error`; returns that HTTP status."""
    if not isinstance(error, EXPECTED):
        logger.error("a gRPC request failed unforeseen", exc_info=error)
    failure = failure_of(error)
    code = CODE_OF_STATUS.get(failure.status, grpc.StatusCode.INTERNAL)
    if isinstance(error, RefusedError) and error.refused.reason == "overload":
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    context.set_code(code)
    context.set_details(failure.message)
    context.set_trailing_metadata([(name.lower(), value) for name, value in failure.headers.items()])
    return failure.status


def _decode(service: Service, message: pb.ModelInferRequest) -> InferRequest:
    mentioned = "probabilities" in message.parameters or any(o.name == "probabilities" for o in message.outputs)
    offered = offered_outputs(service.outputs, mentioned)
    request = decode_infer(message, service.inputs, offered, service.max_rows, takes_payloads=True)
    return settle(request, service.encoder.encoding, service.encoder.vocabulary_size)


def _within_deadline(headers: dict[str, str], request: InferRequest, service: Service) -> Mapping[str, str]:
    """`headers` with the call's own deadline where it is nearer than the objective and nothing else is asked for.

    A deadline further off is the patience of a client, not its wish to wait: the objective holds.
    """
    remaining = headers.get(REMAINING_METADATA)
    if remaining is None or TIMEOUT_HEADER in headers or "deadline_ms" in request.parameters:
        return headers
    objective_s = float(service.about.get("deadline_ms", math.inf)) / 1e3
    if float(remaining) >= objective_s:
        return headers
    return {**headers, TIMEOUT_HEADER: remaining}


def _message(data: Mapping[str, Any], kind: type[Reply]) -> Reply:
    # A newer field of the REST side is no reason to fail.
    message: Reply = ParseDict(data, kind(), ignore_unknown_fields=True)
    return message
