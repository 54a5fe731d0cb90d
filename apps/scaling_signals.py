"""Signals: what a replica tells the autoscaler of itself, through `record_autoscaling_stats`."""

import time
from collections.abc import Callable


class Signals:
    """Counts what arrives between two readings.

    All of it is called on the replica's event loop: `thread_clock` has to be that thread's own.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, thread_clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._thread_clock = thread_clock
        self._arrived = 0
        self._refused = 0
        self._read_at: tuple[float, float] | None = None

    def arrived(self, rows: int) -> None:
        """`rows` were handed to this replica, whatever becomes of them."""
        self._arrived += rows

    def refused(self, rows: int) -> None:
        """`rows` that had arrived were turned away, or became late while they waited."""
        self._refused += rows

    def read(self) -> dict[str, float]:
        """Rates since the last reading; `loop_busy` is the share of the time for which this thread ran.

        The first reading has no rates: nobody knows how long a replica that was just made has waited for it.
        """
        now, ran = self._clock(), self._thread_clock()
        arrived, refused, since = self._arrived, self._refused, self._read_at
        self._arrived = self._refused = 0
        self._read_at = (now, ran)
        if since is None or now <= since[0]:
            return {}
        wall_s = now - since[0]
        return {
            "arrived_per_s": arrived / wall_s,
            "refused_per_s": refused / wall_s,
            "loop_busy": min(1.0, max(0.0, (ran - since[1]) / wall_s)),
        }


def costs(seconds: Callable[[int], float], max_rows: int) -> dict[str, float]:
    """What a call costs and what each row in it, by the line through the smallest call and the largest.

    `seconds` is what a call of so many rows is known to take. A model that takes as long for one row as for many has
    no cost a row; noise never makes one negative.
    """
    one_ms, full_ms = seconds(1) * 1e3, seconds(max_rows) * 1e3
    if full_ms <= 0:
        return {}
    row_ms = max(0.0, (full_ms - one_ms) / (max_rows - 1)) if max_rows > 1 else 0.0
    return {"call_ms": max(0.0, full_ms - row_ms * max_rows), "row_ms": row_ms, "max_rows": float(max_rows)}
