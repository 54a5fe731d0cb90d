"""Backend: whatever turns rows into logits or says why not, in this process or behind a Serve handle.

Shape suffixes: B rows, C classes.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from apps.batcher import Batcher, Logits
from apps.breaker import Breaker
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
            async with asyncio.timeout(timeout_s):
                return await self._batcher.submit(rows_B, timeout_s)
        except RefusedError:
            raise
        except TimeoutError:
            raise _late(timeout_s) from None
        except Exception as error:
            logger.exception("the model failed on %d rows", len(rows_B))
            raise RefusedError(Refused("unavailable", f"the model failed: {error}")) from error


class HandleBackend:
    """A Model deployment behind its Serve handle; `classes` is C."""

    def __init__(self, handle: "DeploymentHandle[Any]", classes: int) -> None:
        self._call = handle.infer
        self._classes = classes

    async def infer(self, rows_B: Array, timeout_s: float | None) -> Logits:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._call.remote(rows_B, timeout_s)
        except TimeoutError:
            raise _late(timeout_s) from None
        except BackPressureError as error:
            raise RefusedError(Refused("overload", "the model's queue is full")) from error
        except (RayError, RayServeException) as error:
            raise RefusedError(Refused("unavailable", f"the model is gone: {type(error).__name__}")) from error
        except Exception as error:  # a handle raises whatever the replica raised
            logger.exception("the model failed on %d rows", len(rows_B))
            raise RefusedError(Refused("unavailable", f"the model failed: {error}")) from error
        if isinstance(reply, Refused):
            raise RefusedError(reply)
        logits_BC: Logits = reply.logits
        if logits_BC.shape != (len(rows_B), self._classes):
            detail = f"the model gave logits {list(logits_BC.shape)}, not {[len(rows_B), self._classes]}"
            raise RefusedError(Refused("unavailable", detail))
        return logits_BC


class GuardedBackend:
    """Spares requests the wait for a model that failed a moment ago.

    A timeout counts against the model only where it had at least `fair_s`: clients choose their deadlines.
    """

    def __init__(self, backend: Backend, breaker: Breaker, fair_s: float) -> None:
        self._backend = backend
        self._breaker = breaker
        self._fair_s = fair_s

    async def infer(self, rows_B: Array, timeout_s: float | None) -> Logits:
        if not self._breaker.admit():
            detail = "the model failed several times in a row and is left alone for a moment"
            raise RefusedError(Refused(self._breaker.last_reason, detail, wait_s=1.0))
        conclusive = False
        try:
            logits_BC = await self._backend.infer(rows_B, timeout_s)
            conclusive = True
            self._breaker.succeeded()
            return logits_BC
        except RefusedError as error:
            reason = error.refused.reason
            unfair = reason == "timeout" and timeout_s is not None and timeout_s < self._fair_s
            # A model that refuses for its load is alive, and says so at once.
            if reason != "overload" and not unfair:
                conclusive = True
                self._breaker.failed(reason)
            raise
        finally:
            if not conclusive:
                self._breaker.inconclusive()

    async def insist(self, rows_B: Array, timeout_s: float | None) -> Logits:
        """For a caller who takes no other answer: asks whatever the breaker's state, and tells it of success only."""
        logits_BC = await self._backend.infer(rows_B, timeout_s)
        self._breaker.succeeded()
        return logits_BC


def _late(timeout_s: float | None) -> RefusedError:
    waited_ms = 0.0 if timeout_s is None else timeout_s * 1e3
    return RefusedError(Refused("timeout", f"no answer within {waited_ms:.0f} ms"))
