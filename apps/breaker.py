"""Breaker: after a model failed several times in a row, it is left alone for a while and then tried by one request."""

import time
from collections.abc import Callable
from typing import Literal

from apps.refusal import RefusalReason


class Breaker:
    """Closed: all pass. Open, after `failures` in a row: none for `open_s`. Then half-open: one passes and decides.

    Whoever was admitted reports exactly one of `succeeded`, `failed`, `inconclusive`.
    """

    def __init__(self, failures: int = 3, open_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        self.last_reason: RefusalReason = "unavailable"

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._clock() - self._opened_at >= self._open_s else "open"

    def admit(self) -> bool:
        state = self.state
        if state == "half-open" and not self._probing:
            self._probing = True
            return True
        return state == "closed"

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = None
        self._probing = False

    def failed(self, reason: RefusalReason) -> None:
        self.last_reason = reason
        self._failures += 1
        self._probing = False
        if self._failures >= self._limit:
            self._opened_at = self._clock()

    def inconclusive(self) -> None:
        """The attempt says nothing about the model: it was cancelled, or given too little time."""
        self._probing = False
