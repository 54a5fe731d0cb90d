"""AccessGate: Access before an ASGI app. Plain ASGI, since every request passes through it."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from apps.access.check import Access, AccessError
from apps.errors import failure_of
from apps.front import route_path, send_failure

# Probes know no keys, and learn nothing from these but that the process lives.
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
# Where the app finds the Caller of a request that came through.
CALLER = "tandem.caller"
_CREDENTIALS = {b"authorization": "authorization", b"x-api-key": "x-api-key"}


class AccessGate:
    """Everything but `OPEN_PATHS` needs a key: models, metadata, the pages, and the document of the API."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (path := route_path(scope)) in OPEN_PATHS:
            return await self._app(scope, receive, send)
        try:
            scope[CALLER] = self._access.check(credentials(scope["headers"]), model_in(path))
        except AccessError as error:
            return await _refuse(scope, send, error)
        return await self._app(scope, receive, send)


def credentials(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Of a request's headers those that `Access.check` reads."""
    return {_CREDENTIALS[name]: value.decode("latin-1") for name, value in raw_headers if name in _CREDENTIALS}


def model_in(path: str) -> str | None:
    """The model that a path is about; None where it is about none."""
    parts = path.split("/", 4)
    if len(parts) < 4 or parts[2] != "models" or parts[1] not in ("v1", "v2"):
        return None
    return parts[3].removesuffix(":predict") if parts[1] == "v1" else parts[3]


async def _refuse(scope: Scope, send: Send, error: AccessError) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
    else:
        await send_failure(send, failure_of(error))
