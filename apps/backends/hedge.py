"""Hedge: where an answer is slow, ask for it a second time and take what comes first, within a budget.

Shape suffixes: B rows, C classes.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.batching.forward import Logits
from apps.refusal import RefusedError
from training.encoding import Array

if TYPE_CHECKING:
    from apps.backends.backend import Backend

# So many answers have to be known before a percentile of them means anything.
ENOUGH_ANSWERS = 20
# Sorted anew after so many answers: the percentile of hundreds hardly moves with one.
STALE_AFTER = 16


@dataclass(frozen=True)
class HedgeLimits:
    """A second call goes out after the `percentile` of the last `window` durations, for up to `share` of requests.

    `burst` second calls may come at once after a quiet time.
    """

    percentile: float = 0.95
    window: int = 256
    share: float = 0.05
    burst: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.percentile < 1 or not 0 < self.share <= 1 or self.burst < 1 or self.window < ENOUGH_ANSWERS:
            raise ValueError(
                f"{self} cannot be kept: percentile between 0 and 1, share above 0 and up to 1, burst at least 1, "
                f"window at least {ENOUGH_ANSWERS}"
            )


class Hedge:
    """When a second call is due, and whether it may be made. Pure bookkeeping."""

    def __init__(self, limits: HedgeLimits) -> None:
        self._limits = limits
        self._durations_s: deque[float] = deque(maxlen=limits.window)
        self._since_sorted = STALE_AFTER
        self._delay_s: float | None = None
        self._tokens = limits.burst
        self.spent = 0
        """Second calls so far."""

    def asked(self) -> None:
        """A request came, and earned its share of a second call."""
        self._tokens = min(self._limits.burst, self._tokens + self._limits.share)

    def answered(self, duration_s: float) -> None:
        self._durations_s.append(duration_s)
        self._since_sorted += 1

    @property
    def delay_s(self) -> float | None:
        """After so long an answer is slow; None while too little is known."""
        if len(self._durations_s) < ENOUGH_ANSWERS:
            return None
        if self._since_sorted >= STALE_AFTER:
            self._since_sorted = 0
            index = int(self._limits.percentile * len(self._durations_s))
            self._delay_s = sorted(self._durations_s)[min(index, len(self._durations_s) - 1)]
        return self._delay_s

    def spend(self) -> bool:
        """Whether the budget has a second call left, which is then made."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self.spent += 1
        return True


class HedgedBackend:
    """A backend whose slow answers are asked for once more; who comes second is cancelled.

    A refusal is an answer, unless the other call is still under way: that may yet do better.
    """

    def __init__(self, backend: "Backend", hedge: Hedge, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._clock = clock
        self.hedge = hedge

    async def infer(self, rows_B: Array, timeout_s: float | None) -> Logits:
        hedge = self.hedge
        hedge.asked()
        delay_s = hedge.delay_s
        started = self._clock()
        if delay_s is None or (timeout_s is not None and delay_s >= timeout_s):
            logits_BC = await self._backend.infer(rows_B, timeout_s)
            hedge.answered(self._clock() - started)
            return logits_BC
        calls = [asyncio.ensure_future(self._backend.infer(rows_B, timeout_s))]
        try:
            await asyncio.wait(calls, timeout=delay_s)
            if not calls[0].done() and hedge.spend():
                left_s = None if timeout_s is None else max(0.0, timeout_s - (self._clock() - started))
                calls.append(asyncio.ensure_future(self._backend.infer(rows_B, left_s)))
            logits_BC = await _first(calls)
        finally:
            for call in calls:
                call.cancel()
        hedge.answered(self._clock() - started)
        return logits_BC


async def _first(calls: "list[asyncio.Task[Logits]]") -> Logits:
    """The first answer; raises the last refusal where there is none."""
    pending = set(calls)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        failure: BaseException | None = None
        for call in done:
            failure = call.exception()
            if failure is None:
                return call.result()
        if failure is not None and (not pending or not isinstance(failure, RefusedError)):
            raise failure
