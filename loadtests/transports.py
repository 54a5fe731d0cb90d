"""Transports: how one prepared request goes out and its answer comes back, over HTTP or gRPC."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from loadtests.grpc_messages import METHOD
from loadtests.payloads import InferRequest

# Below the idle timeout of common servers (5 s), so that a connection is not used while the server closes it.
KEEPALIVE_S = 2.0
GRPC_CONTENT = "application/grpc"
MAX_MESSAGE_BYTES = 64_000_000
# One HTTP/2 connection carries 100 calls at a time at many servers; more of them spread the calls.
GRPC_CHANNELS = 8

# The HTTP status that says the same, so that a report counts both protocols alike.
STATUS_OF_GRPC = {
    "OK": 200,
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class TransportError(OSError):
    """Nothing came back: the message says why."""


@dataclass(frozen=True)
class Reply:
    """A complete answer; header names in lower case.

    A gRPC answer has the content type `application/grpc`, its message as the body and the HTTP status that says what
    its code does.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    async def send(self, request: InferRequest) -> Reply:
        """Raises TransportError where nothing came back in time."""
        ...

    async def close(self) -> None: ...


class HttpTransport:
    """POSTs to `url`; made inside the event loop that uses it."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)

    async def send(self, request: InferRequest) -> Reply:
        try:
            async with self._session.post(
                self._url + request.path, data=request.body, headers=request.headers, allow_redirects=False
            ) as response:
                body = await response.read()
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status, headers, body)
        except TimeoutError:
            raise TransportError(f"no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"connection: {type(error).__name__}") from error

    async def close(self) -> None:
        await self._session.close()


class GrpcTransport:
    """Calls ModelInfer at `target` (host:port, without TLS); messages go out and come back as bytes."""

    def __init__(self, target: str, timeout_s: float) -> None:
        from grpc import aio  # type: ignore[import-untyped]

        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.enable_http_proxy", 0),
            # Channels of the same options would share one connection.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._timeout_s = timeout_s
        self._channels = [aio.insecure_channel(target, options=options) for _ in range(GRPC_CHANNELS)]
        self._calls = [channel.unary_unary(METHOD) for channel in self._channels]
        self._next = 0

    async def send(self, request: InferRequest) -> Reply:
        from grpc import RpcError

        call = self._calls[self._next]
        self._next = (self._next + 1) % len(self._calls)
        metadata = tuple(request.headers.items())
        try:
            body: bytes = await call(request.body, timeout=self._timeout_s, metadata=metadata)
            return Reply(200, {"content-type": GRPC_CONTENT}, body)
        except RpcError as error:
            return _refused(error, self._timeout_s)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


def _refused(error: Any, timeout_s: float) -> Reply:
    """What a server said instead of an answer; raises TransportError where it was not a server that spoke."""
    code, details = error.code().name, str(error.details() or "")
    # Set by the server beside its status; what the client's own library made up has none.
    if not list(error.trailing_metadata() or ()) and code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"):
        if code == "DEADLINE_EXCEEDED":
            raise TransportError(f"no answer within {timeout_s:g} s")
        if code == "UNAVAILABLE" and "connect" in details.lower():
            raise TransportError("connection: UNAVAILABLE")
    headers = {"content-type": "text/plain", "grpc-status": code}
    return Reply(STATUS_OF_GRPC.get(code, 500), headers, details.encode())
