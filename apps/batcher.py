"""Batcher: what runs together on a Runner, and what is refused. Plain asyncio, no Ray.

Shape suffixes: B rows, C classes.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apps.pace import Pace
from apps.refusal import Refused, RefusedError
from training.encoding import Array

Logits = NDArray[np.float32]

# Where a caller gives no deadline its work is ordered as if it had this one, so that it is not passed over for ever.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class BatchLimits:
    """`max_batch_rows` run in one call; `max_queue_rows` may wait."""

    max_batch_rows: int = 32
    max_queue_rows: int = 512


@dataclass(eq=False)
class _Job:
    rows: Array
    due: float
    expires: float | None
    future: asyncio.Future[Logits]
    queued: bool = field(default=True)


class Batcher:
    """Runs `run` (rows [B, ...] -> logits [B, C]) in one thread of its own.

    The next batch forms when that thread frees, of what is most urgent then; nothing waits for a batch to fill.
    """

    def __init__(
        self,
        run: Callable[[Array], Logits],
        limits: BatchLimits,
        pad_id: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._limits = limits
        self._pad_id = pad_id
        self._clock = clock
        self._pace = Pace()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._heap: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._queued_rows = 0
        self._running_rows = 0
        self._running_since: float | None = None
        self._worker: asyncio.Task[None] | None = None

    @property
    def queue_rows(self) -> int:
        """Rows that wait; those that run now are not among them."""
        return self._queued_rows

    @property
    def busy_s(self) -> float:
        """For how long the current call has been running; 0 when idle."""
        return 0.0 if self._running_since is None else self._clock() - self._running_since

    def warm_up(self, row: Array) -> None:
        """Run batches of copies of `row` [...] in the calling thread, to fill caches and learn the pace."""
        size = 1
        while size <= self._limits.max_batch_rows:
            batch_B = np.repeat(row[None], size, axis=0)
            self._run(batch_B)
            started = time.perf_counter()
            self._run(batch_B)
            self._pace.observe(size, time.perf_counter() - started)
            size *= 2

    async def submit(self, rows_B: Array, timeout_s: float | None = None) -> Logits:
        """Logits [B, C] of `rows_B`, which are of use only within `timeout_s` from now (None: whenever).

        Raises RefusedError: "overload" at once when the queue is full or the answer would be late,
        "timeout" when it became late while waiting; and whatever `run` raised for these rows.
        """
        now = self._clock()
        due = now + (PATIENCE_S if timeout_s is None else timeout_s)
        self._admit(len(rows_B), due, now, timeout_s)
        future: asyncio.Future[Logits] = asyncio.get_running_loop().create_future()
        job = _Job(rows_B, due, None if timeout_s is None else due, future)
        heapq.heappush(self._heap, (due, next(self._order), job))
        self._queued_rows += len(rows_B)
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        try:
            return await future
        finally:
            self._leave_queue(job)

    def close(self) -> None:
        """Let the thread end; waiting work is not run."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _admit(self, rows: int, due: float, now: float, timeout_s: float | None) -> None:
        if self._queued_rows + rows > self._limits.max_queue_rows:
            raise self._overload(f"{self._queued_rows} rows wait and {self._limits.max_queue_rows} may", now)
        idle = self._running_since is None and not self._queued_rows
        # An idle server takes everything: a pace that was learned too slow would otherwise never be corrected.
        if timeout_s is None or idle:
            return
        ahead = sum(len(job.rows) for other_due, _, job in self._heap if job.queued and other_due <= due)
        expected_s = self._seconds_until_done(ahead + rows, now)
        if expected_s > timeout_s:
            raise self._overload(f"an answer would take {expected_s * 1e3:.0f} ms of {timeout_s * 1e3:.0f} ms", now)

    def _seconds_until_done(self, rows: int, now: float) -> float:
        current_s = 0.0
        if self._running_since is not None:
            current_s = max(0.0, self._pace.seconds(self._running_rows) - (now - self._running_since))
        full, rest = divmod(rows, self._limits.max_batch_rows)
        return current_s + full * self._pace.seconds(self._limits.max_batch_rows) + self._pace.seconds(rest)

    def _overload(self, detail: str, now: float) -> RefusedError:
        wait_s = self._seconds_until_done(self._queued_rows, now)
        return RefusedError(Refused("overload", f"the model is overloaded: {detail}", self._queued_rows, wait_s))

    async def _work(self) -> None:
        try:
            while jobs := self._take():
                await self._serve(jobs)
        finally:
            self._worker = None

    def _take(self) -> list[_Job]:
        """The most urgent jobs up to `max_batch_rows`, or one that is larger alone; what is of no use is dropped."""
        now = self._clock()
        taken: list[_Job] = []
        rows = 0
        while self._heap:
            job = self._heap[0][2]
            if job.queued and not job.future.done() and job.expires is not None and job.expires <= now:
                detail = "the deadline passed while the request waited"
                job.future.set_exception(RefusedError(Refused("timeout", detail, self._queued_rows)))
            if not job.queued or job.future.done():
                heapq.heappop(self._heap)
                self._leave_queue(job)
                continue
            if taken and rows + len(job.rows) > self._limits.max_batch_rows:
                break
            heapq.heappop(self._heap)
            self._leave_queue(job)
            taken.append(job)
            rows += len(job.rows)
        return taken

    def _leave_queue(self, job: _Job) -> None:
        if job.queued:
            job.queued = False
            self._queued_rows -= len(job.rows)

    async def _serve(self, jobs: list[_Job]) -> None:
        self._running_rows = sum(len(job.rows) for job in jobs)
        self._running_since = self._clock()
        outcomes: Sequence[Logits | Exception]
        try:
            outcomes, seconds = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._compute, [job.rows for job in jobs]
            )
        except RuntimeError as error:  # the thread was closed
            stopped = RefusedError(Refused("unavailable", f"the model is being stopped: {error}"))
            outcomes, seconds = [stopped] * len(jobs), None
        finally:
            self._running_since = None
        if seconds is not None and self._running_rows <= self._limits.max_batch_rows:
            self._pace.observe(self._running_rows, seconds)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _compute(self, parts: list[Array]) -> tuple[Sequence[Logits | Exception], float | None]:
        """Runs in the thread: each part's logits or error, and the seconds taken where all went well."""
        started = time.perf_counter()
        try:
            logits_BC = self._logits(collate(parts, self._pad_id))
        except Exception as error:
            if len(parts) == 1:
                return [error], None
            # Only the request that cannot be run may fail: the others are run again without it.
            return [self._compute([part])[0][0] for part in parts], None
        seconds = time.perf_counter() - started
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return list(np.split(logits_BC, ends)), seconds

    def _logits(self, batch_B: Array) -> Logits:
        size = self._limits.max_batch_rows
        chunks = [self._run(batch_B[start : start + size]) for start in range(0, len(batch_B), size)]
        logits_BC = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        if logits_BC.ndim != 2 or len(logits_BC) != len(batch_B):
            raise ValueError(f"the model gave logits {list(logits_BC.shape)} for {len(batch_B)} rows")
        return logits_BC


def collate(parts: Sequence[Array], pad_id: int) -> Array:
    """Parts [B_i, ...] -> one batch; token ids [B_i, L_i] are padded on the right to the longest."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].ndim != 2:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, longest - part.shape[1])), constant_values=pad_id) for part in parts]
    )
