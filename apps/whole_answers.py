"""HTTP answers that leave in one piece.

uvicorn, which Serve's HTTP servers are, writes an answer's head and its body one after the other. A replica that is
killed between the two has begun an answer, which no proxy can ask another replica for again; and each write costs a
system call here and wakes the proxy once more. No setting changes that, so the class that writes is replaced by one
that lets the head wait for the body.
"""

import asyncio
import logging
from typing import Any

logger = logging.getLogger("ray.serve")


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


def answer_whole() -> None:
    """Let the HTTP servers of this process write an answer's head and its body at once."""
    try:
        from uvicorn.protocols.http import httptools_impl
    except ImportError:
        logger.warning("httptools is not installed: a killed replica may leave an answer begun")
        return
    plain = httptools_impl.RequestResponseCycle
    if getattr(plain, "answers_whole", False):
        return

    class WholeCycle(plain):  # type: ignore[valid-type, misc]
        answers_whole = True

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.transport: Any = WholeWriter(self.transport)

    httptools_impl.RequestResponseCycle = WholeCycle  # type: ignore[misc]
