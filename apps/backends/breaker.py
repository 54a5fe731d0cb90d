"""Breaker: after a model failed several times in a row, it is left alone for a while and then tried by one request."""

import time
from collections.abc import Callable
from typing import Literal

from apps.refusal import RefusalReason

BreakerState = Literal["closed", "open", "half-open"]


class Breaker:
    """Closed: all pass. Open, after `failures` in a row: none for `open_s`. Then half-open: one passes and decides.

    Timeouts count once nothing has come for `quiet_s`: a model at its limit answers some of its requests too late.
    Whoever was admitted reports exactly one of `succeeded`, `failed`, `inconclusive`. `on_change` is told of each new
    state; half-open begins with the request that is let through.
    """

    def __init__(
        self,
        failures: int = 3,
        open_s: float = 1.0,
        quiet_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerState], None] | None = None,
    ) -> None:
        self.on_change = on_change
        self._limit = failures
        self._open_s = open_s
        self._quiet_s = quiet_s
        self._succeeded_at: float | None = None
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        self._told: BreakerState = "closed"
        self.last_reason: RefusalReason = "unavailable"

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._clock() - self._opened_at >= self._open_s else "open"

    @property
    def retry_s(self) -> float:
        """Until a request may pass; 0 where one may now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._open_s - (self._clock() - self._opened_at))

    def admit(self) -> bool:
        state = self.state
        if state == "half-open" and not self._probing:
            self._probing = True
            self._tell(state)
            return True
        return state == "closed"

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = None
        self._probing = False
        self._succeeded_at = self._clock()
        self._tell("closed")

    def failed(self, reason: RefusalReason) -> None:
        self.last_reason = reason
        self._failures += 1
        self._probing = False
        quiet = self._succeeded_at is None or self._clock() - self._succeeded_at >= self._quiet_s
        if self._failures >= self._limit and (quiet or reason != "timeout"):
            self._opened_at = self._clock()
            self._tell("open")

    def inconclusive(self) -> None:
        """The attempt says nothing about the model: it was cancelled, or given too little time."""
        self._probing = False

    def _tell(self, state: BreakerState) -> None:
        if state != self._told:
            self._told = state
            if self.on_change is not None:
                self.on_change(state)
