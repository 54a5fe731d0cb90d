"""Backend: whatever turns rows into logits or says why not, in this process or behind a Serve handle.

Shape suffixes: B rows, C classes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from apps.backends.breaker import Breaker
from apps.backends.exchange import Call, Ready
from apps.backends.gather import Gather, GatherLimits
from apps.batching.batcher import Batcher, Logits
from apps.observe.tracing import NoTracing, Tracing
from apps.refusal import Refused, RefusedError
from training.encoding import Array

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("ray.serve")


class Backend(Protocol):
    async def infer(self, rows_B: Array, timeout_s: float | None) -> Logits:
        """Logits [B, C] within `timeout_s` (None: whenever); raises RefusedError and nothing else but cancellation."""
        ...


class LocalBackend:
    """A Batcher of this process."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def infer(self, rows_B: Array, timeout_s: float | None) -> Logits:
        try:
            return await self._batcher.submit(rows_B, timeout_s)
        except RefusedError:
            raise
        except Exception as error:
            logger.exception("the model failed on %d rows", len(rows_B))
            raise RefusedError(Refused("unavailable", f"the model failed: {error}")) from error


class HandleBackend:
    """A Model deployment behind its Serve handle; `classes` is C. What arrives together goes there as one call.

    `limits` None are those of `Gather`; `ONE_BY_ONE` gathers nothing.
    """

    def __init__(
        self,
        handle: "DeploymentHandle[Any]",
        classes: int,
        limits: GatherLimits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._handle = handle
        self._classes = classes
        # Of the handle's methods, since Serve makes a new handle each time that one is named.
        self._one: Any = None
        self._many: Any = None
        self.gather = Gather(self._send, _explain, limits, carried=(tracing or NoTracing()).carried)

    async def infer(self, rows_B: Array, timeout_s: float | None) -> Logits:
        logits_BC = await self.gather.ask(rows_B, timeout_s)
        if logits_BC.shape != (len(rows_B), self._classes):
            detail = f"the model gave logits {list(logits_BC.shape)}, not {[len(rows_B), self._classes]}"
            raise RefusedError(Refused("unavailable", detail))
        return logits_BC

    async def _send(self, calls: Sequence[Call]) -> AsyncIterator[Ready]:
        if self._many is None:
            self._one, self._many = self._handle.infer, self._handle.options(stream=True).infer_many
        if len(calls) == 1:
            response: Any = self._one.remote(calls[0])
            try:
                answered = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            yield [(0, answered)]
            return
        # A stream, since one of many must not wait for its refusal until the last of them has its logits.
        stream = self._many.remote(list(calls))
        try:
            async for ready in stream:
                yield ready
        except (asyncio.CancelledError, GeneratorExit):
            stream.cancel()
            raise


ONE_BY_ONE = GatherLimits(calls=100_000, most_calls=100_000, call_requests=1)


def _explain(error: Exception) -> Refused:
    from ray.exceptions import RayError
    from ray.serve.exceptions import BackPressureError, RayServeException

    if isinstance(error, BackPressureError):
        return Refused("overload", "the model's queue is full")
    if isinstance(error, RayError | RayServeException):
        return Refused("unavailable", f"the model is gone: {type(error).__name__}")
    # A handle raises whatever the replica raised.
    logger.error("the model failed", exc_info=error)
    return Refused("unavailable", f"the model failed: {error}")


class GuardedBackend:
    """Spares requests the wait for a model that failed a moment ago.

    A timeout counts against the model only where it had at least `fair_s`: clients choose their deadlines.
    """

    def __init__(self, backend: Backend, breaker: Breaker, fair_s: float) -> None:
        self.breaker = breaker
        self._backend = backend
        self._fair_s = fair_s

    async def infer(self, rows_B: Array, timeout_s: float | None) -> Logits:
        if not self.breaker.admit():
            detail = "the model failed several times in a row and is left alone for a moment"
            raise RefusedError(Refused(self.breaker.last_reason, detail, wait_s=self.breaker.retry_s))
        conclusive = False
        try:
            logits_BC = await self._backend.infer(rows_B, timeout_s)
            conclusive = True
            self.breaker.succeeded()
            return logits_BC
        except RefusedError as error:
            reason = error.refused.reason
            unfair = reason == "timeout" and timeout_s is not None and timeout_s < self._fair_s
            # A model that refuses for its load is alive, and says so at once.
            if reason != "overload" and not unfair:
                conclusive = True
                self.breaker.failed(reason)
            raise
        finally:
            if not conclusive:
                self.breaker.inconclusive()

    async def insist(self, rows_B: Array, timeout_s: float | None) -> Logits:
        """For a caller who takes no other answer: asks whatever the breaker's state, and tells it of success only."""
        logits_BC = await self._backend.infer(rows_B, timeout_s)
        self.breaker.succeeded()
        return logits_BC
