"""Front: the ASGI app of an endpoint. Inference is answered here; all else goes on to the FastAPI app behind it.

A web framework's routing and dependency machinery costs more than a small model's answer does.
"""

import asyncio
import logging
from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.body import read_body
from apps.endpoint import Endpoint
from apps.errors import EXPECTED, Failure, failure_of
from apps.observe.account import Account
from apps.protocol.rest import error_body
from apps.protocol.tensors import ProtocolError
from apps.service import Service

logger = logging.getLogger("ray.serve")

# What is written down of a request whose client went away; nobody is left to be told.
GONE = 499


class Front:
    """`app` answers whatever is no inference of a model that `endpoint` has."""

    def __init__(self, endpoint: Endpoint, app: ASGIApp) -> None:
        self._max_body_bytes = endpoint.max_body_bytes
        self._app = app
        self._targets: dict[str, tuple[Service, int | None]] = {}
        for model, service in endpoint.services.items():
            path = f"/v2/models/{model}"
            self._targets[f"{path}/infer"] = (service, None)
            for version in service.versions:
                self._targets[f"{path}/versions/{version}/infer"] = (service, int(version))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            target = self._targets.get(route_path(scope))
            if target is not None:
                await self._infer(*target, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _infer(self, service: Service, release: int | None, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        try:
            body = await read_body(headers, receive, self._max_body_bytes)
        except ClientDisconnect:
            return
        except ProtocolError as error:
            Account(service.books, "http", headers).failed(error.status)
            await send_failure(send, failure_of(error))
            return
        account = Account(service.books, "http", headers)
        try:
            with account.span():
                reply = await service.infer(body, headers, release, account)
        except asyncio.CancelledError:
            account.failed(GONE)
            raise
        except Exception as error:
            if not isinstance(error, EXPECTED):
                logger.exception("a request failed unforeseen")
            failure = failure_of(error)
            account.failed(failure.status)
            await send_failure(send, failure)
        else:
            await _send(send, 200, reply.headers, reply.body)


def route_path(scope: Mapping[str, object]) -> str:
    """The path below the application's prefix, as its routes see it."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by lower-case name, as ASGI gives them; of a repeated one the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def send_failure(send: Send, failure: Failure) -> None:
    headers = {"content-type": "application/json", **failure.headers}
    await _send(send, failure.status, headers, error_body(failure.message))


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
