"""Alarm: one timer for many deadlines, since a timer for each request is dear."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls `sweep(now)` when the earliest deadline that it was told of has come.

    `sweep` deals with what is due and returns the next deadline, or None. Deadlines that lapse need not be taken back:
    they cost one needless sweep at most.
    """

    def __init__(self, sweep: Callable[[float], float | None], clock: Callable[[], float]) -> None:
        self._sweep = sweep
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._set_for = 0.0

    def by(self, due: float) -> None:
        """Ring at `due` or before."""
        if self._timer is not None:
            if self._set_for <= due:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._set_for = due
        self._timer = loop.call_later(max(0.0, due - self._clock()), self._ring)

    def off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        due = self._sweep(self._clock())
        if due is not None:
            self.by(due)
