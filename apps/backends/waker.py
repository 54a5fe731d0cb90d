"""Waker: keeps one call waiting at a model that does not answer, until it does.

Ray Serve starts a replica of a deployment that has none for a request that waits at its handle. An escalated request
waits for milliseconds only and is gone again before Serve has looked; this one stays.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from apps.refusal import RefusedError

logger = logging.getLogger("ray.serve")


class Waker:
    """`call` asks the model and returns when it has answered; it raises RefusedError where it did not."""

    def __init__(self, call: Callable[[], Awaitable[object]], pause_s: float = 1.0) -> None:
        self._call = call
        self._pause_s = pause_s
        self._task: asyncio.Task[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the model has been called and has not answered yet."""
        return self._task is not None

    def wake(self) -> None:
        """Call the model unless a call waits already; returns at once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._wait())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _wait(self) -> None:
        try:
            while True:
                try:
                    await self._call()
                    return
                except RefusedError as error:
                    logger.warning("a model is called until it answers: %s", error)
                    await asyncio.sleep(self._pause_s)
        finally:
            self._task = None
