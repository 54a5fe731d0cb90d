"""What is done differently in uvicorn, which Serve's HTTP servers are; no setting of either changes it.

An answer leaves in one piece. uvicorn writes its head and its body one after the other: a replica that is killed
between the two has begun an answer, which no proxy can ask another replica for again, and each write costs a system
call here and wakes the proxy once more.

A client that goes away cancels its request from here. Serve watches for that with two more tasks and a queue for each
request, and leaves it be where a header of the request says so.
"""

import asyncio
import logging
from typing import Any

logger = logging.getLogger("ray.serve")

# To Ray Serve: do not watch for the client's going.
UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class WholeWriter:
    """A transport that writes what it is given first together with what follows at once; the rest as it comes.

    What is not followed before the event loop's next turn, as the head of a stream, goes by itself.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self._turn: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        if self._turn is None:
            self._head = data
            self._turn = asyncio.get_running_loop().call_soon(self._flush)
        elif self._head is not None:
            self._turn.cancel()
            head, self._head = self._head, None
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def improve_http_server() -> None:
    """Let the HTTP servers of this process answer in one piece, and cancel by themselves what nobody waits for."""
    try:
        from uvicorn.protocols.http import httptools_impl
    except ImportError:
        logger.warning("httptools is not installed: a killed replica may leave an answer begun")
        return
    plain = httptools_impl.RequestResponseCycle
    if getattr(plain, "improved", False):
        return

    class Cycle(plain):  # type: ignore[valid-type, misc]
        """One request and its answer."""

        improved = True
        _gone = False
        _task: asyncio.Task[None] | None = None

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.transport: Any = WholeWriter(self.transport)
            self.scope["headers"].append(UNWATCHED)

        @property
        def disconnected(self) -> bool:
            return self._gone

        @disconnected.setter
        def disconnected(self, gone: bool) -> None:
            self._gone = gone
            if gone and self._task is not None:
                self._task.cancel()

        async def run_asgi(self, app: Any) -> None:
            self._task = asyncio.current_task()

            async def until_gone(scope: Any, receive: Any, send: Any) -> None:
                try:
                    await app(scope, receive, send)
                except asyncio.CancelledError:
                    # Else uvicorn would write down a failure of the app.
                    if not self._gone:
                        raise

            await super().run_asgi(until_gone)

    httptools_impl.RequestResponseCycle = Cycle  # type: ignore[misc]
