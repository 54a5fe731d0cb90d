"""Signals: what a replica tells the autoscaler of itself, through `record_autoscaling_stats`.

That method has to be a coroutine: Serve runs others in a thread of a pool, whose time is not the event loop's.
"""

import time
from collections.abc import Callable

from apps.batching.batcher import Batcher, BatchRecord, Shed


class LoopSignals:
    """How busy the event loop is on which `read` is called; enough for a replica without a model of its own."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, thread_clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._thread_clock = thread_clock
        self._read_at: tuple[float, float] | None = None

    def read(self) -> dict[str, float]:
        """`loop_busy`, the share of the time since the last reading for which this thread ran; nothing at first."""
        wall_s, ran_s = self._passed()
        return {"loop_busy": min(1.0, max(0.0, ran_s / wall_s))} if wall_s > 0 else {}

    def _passed(self) -> tuple[float, float]:
        """Seconds since the last reading, by the wall and by this thread."""
        now, since = (self._clock(), self._thread_clock()), self._read_at
        self._read_at = now
        return (0.0, 0.0) if since is None else (now[0] - since[0], now[1] - since[1])


class ModelSignals(LoopSignals):
    """Signals of a replica around `batcher`, whose listeners go on hearing: it is made when they are there.

    `call_s` is what a call of so many rows is known to take, and `max_rows` the most that one has.
    """

    def __init__(
        self,
        batcher: Batcher,
        call_s: Callable[[int], float],
        max_rows: int,
        clock: Callable[[], float] = time.monotonic,
        thread_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        super().__init__(clock, thread_clock)
        self._call_s = call_s
        self._max_rows = max_rows
        self._rows = self._jobs = self._refused = 0
        self._rows_a_job = 1.0
        self._also_batch, batcher.on_batch = batcher.on_batch, self._on_batch
        self._also_shed, batcher.on_shed = batcher.on_shed, self._on_shed

    def read(self) -> dict[str, float]:
        """Rates since the last reading beside `loop_busy`, and the model's costs."""
        wall_s, ran_s = self._passed()
        rows, jobs, refused = self._rows, self._jobs, self._refused
        self._rows = self._jobs = self._refused = 0
        if jobs:
            self._rows_a_job = rows / jobs
        told = costs(self._call_s, self._max_rows)
        if wall_s > 0:
            # A refusal does not say how many rows it was: as many as the others had.
            refused_per_s = refused * self._rows_a_job / wall_s
            told |= {
                "arrived_per_s": rows / wall_s + refused_per_s,
                "refused_per_s": refused_per_s,
                "loop_busy": min(1.0, max(0.0, ran_s / wall_s)),
            }
        return told

    def turned_away(self, requests: int) -> None:
        """So many were refused before they came here, since this model had no time for them."""
        self._refused += requests

    def _on_batch(self, record: BatchRecord) -> None:
        self._rows += record.rows
        self._jobs += record.jobs
        if self._also_batch is not None:
            self._also_batch(record)

    def _on_shed(self, why: Shed) -> None:
        self._refused += 1
        if self._also_shed is not None:
            self._also_shed(why)


def costs(call_s: Callable[[int], float], max_rows: int) -> dict[str, float]:
    """What a call costs and what each row in it, by the line through the smallest call and the largest.

    A model that takes as long for one row as for many has no cost a row; noise never makes one negative.
    """
    one_ms, full_ms = call_s(1) * 1e3, call_s(max_rows) * 1e3
    if full_ms <= 0:
        return {}
    row_ms = max(0.0, (full_ms - one_ms) / (max_rows - 1)) if max_rows > 1 else 0.0
    return {"call_ms": max(0.0, full_ms - row_ms * max_rows), "row_ms": row_ms, "max_rows": float(max_rows)}
