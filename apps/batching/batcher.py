"""Batcher: what runs together on a Runner, and what is refused. Plain asyncio, no Ray.

Shape suffixes: B rows, C classes.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from apps.batching.alarm import Alarm
from apps.batching.collate import Collator, collate
from apps.batching.forward import Forward, Logits, Outcome
from apps.batching.pace import Pace
from apps.batching.waiting import BatchLimits, Job, Waiting
from apps.batching.worker import Worker
from apps.refusal import Refused, RefusedError
from training.encoding import Array

__all__ = ["BatchLimits", "BatchRecord", "Batcher", "Job", "Logits", "Shed", "collate"]

logger = logging.getLogger("ray.serve")

# "full": no room in the queue; "late": it would be answered too late; "expired": its deadline passed while it waited;
# "given_up": its deadline could not be met any more; "overran": its deadline passed while it ran; "cancelled": the
# caller went; "stopped": the model is being stopped.
Shed = Literal["full", "late", "expired", "given_up", "overran", "cancelled", "stopped"]

# Where a caller gives no deadline its work is ordered as if it had this one, so that it is not passed over for ever.
PATIENCE_S = 10.0
# So often an idle model tries what it believes to be hopeless: a pace learned too slow has to correct itself, and one
# that is right must not cost the caller the time of a late answer each time.
PROBE_EVERY_S = 0.25


@dataclass(frozen=True)
class BatchRecord:
    """One call of the model: `rows` asked for by `jobs` requests, run as `padded_rows`; `fill` is of a full batch.

    `queue_s` is how long each request waited, `batch_s` what putting them side by side took, `model_s` the model.
    """

    rows: int
    padded_rows: int
    jobs: int
    queue_s: tuple[float, ...]
    batch_s: float
    model_s: float
    fill: float


class Batcher:
    """Runs `run` (rows [B, ...] -> logits [B, C]) in one thread of its own.

    The next batch forms when that thread frees, of what is most urgent then; nothing waits for a batch to fill.
    `on_batch` is told of each call and `on_shed` of each request without an answer; both run on the event loop.
    """

    def __init__(
        self,
        run: Callable[[Array], Logits],
        limits: BatchLimits,
        pad_id: int = 0,
        clock: Callable[[], float] = time.monotonic,
        on_batch: Callable[[BatchRecord], None] | None = None,
        on_shed: Callable[[Shed], None] | None = None,
    ) -> None:
        self.on_batch = on_batch
        self.on_shed = on_shed
        self._run = run
        self._limits = limits
        self._clock = clock
        self._forward = Forward(run, limits.max_batch_rows, Collator(pad_id, limits.sizes, limits.max_batch_rows))
        self._pace = Pace({*limits.sizes, limits.max_batch_rows})
        self._worker = Worker("batcher")
        self._waiting = Waiting(limits, self._pace)
        self._alarm = Alarm(self._sweep, clock)
        self._running: Sequence[Job] = ()
        self._running_since = 0.0
        self._running_s = 0.0
        self._overrun_s = 0.0
        self._called = False
        self._next_probe = 0.0
        self._shed: Counter[Shed] = Counter()

    @property
    def queue_rows(self) -> int:
        """Rows that wait; those that run now are not among them."""
        return self._waiting.rows

    def call_s(self, rows: int) -> float:
        """What a call of so many rows is known to take; 0 while nothing is known."""
        return self._waiting.call_s(rows)

    def outlook(self) -> tuple[float, float]:
        """How long one more row would take to be answered, and how much longer the next one after it."""
        waiting, now = self._waiting, self._clock()
        if not self._running and not waiting.rows:
            return self._pace.at_best(1), self._waiting.call_s(1)
        most = waiting.most_within(float("inf"))
        next_s = self._expected_s(waiting.rows + 1, now, most)
        step_s = self._expected_s(waiting.rows + 2, now, most) - next_s
        return next_s + self._spare_s(next_s), step_s

    @property
    def busy_s(self) -> float:
        """For how long the current call has been running; 0 when idle."""
        return self._clock() - self._running_since if self._running else 0.0

    @property
    def shed(self) -> Mapping[Shed, int]:
        """How many requests got no answer, by reason."""
        return self._shed

    def warm_up(self, row: Array) -> None:
        """Run batches of copies of `row` [...] in the calling thread, to fill caches and learn the pace."""
        powers = {2**power for power in range((self._limits.max_batch_rows).bit_length())}
        for size in sorted(self._limits.sizes or powers | {self._limits.max_batch_rows}):
            batch_B = np.repeat(row[None], size, axis=0)
            self._run(batch_B)
            for _ in range(2):
                started = time.perf_counter()
                self._run(batch_B)
                self._pace.observe(size, time.perf_counter() - started)

    async def submit(self, rows_B: Array, timeout_s: float | None = None) -> Logits:
        """Logits [B, C] of `rows_B`, which are of use only within `timeout_s` from now (None: whenever).

        Raises RefusedError: "overload" at once when the queue is full or the answer would be late, "timeout" when
        the deadline passed; and whatever `run` raised for these rows.
        """
        job = self.enqueue(rows_B, timeout_s)
        try:
            logits_BC: Logits = await job.future
        except asyncio.CancelledError:
            self.withdraw(job)
            raise
        return logits_BC

    def enqueue(self, rows_B: Array, timeout_s: float | None = None, may_overrun: bool = False) -> Job:
        """`submit` in two steps: raises what it raises at once, and `job.future` is the rest.

        Whoever loses interest in the future has to `withdraw` the job. With `may_overrun` a call that takes longer
        than it should is answered all the same, for a caller who keeps the time and may still have some left.
        """
        now = self._clock()
        due = now + (PATIENCE_S if timeout_s is None else timeout_s)
        probe = self._admit(len(rows_B), due, now, timeout_s)
        loop = asyncio.get_running_loop()
        job = Job(rows_B, now, due, None if timeout_s is None else due, loop.create_future(), probe, may_overrun)
        self._waiting.add(job)
        if timeout_s is not None:
            self._alarm.by(due)
        if not self._running and not self._called:
            # Not at once: what else has arrived in this turn of the loop belongs into the same batch.
            self._called = True
            loop.call_soon(self._next)
        return job

    def withdraw(self, job: Job) -> None:
        """Nobody waits for `job` any more: it leaves the queue, or its answer is thrown away."""
        job.future.cancel()
        if self._waiting.remove(job):
            self._count("cancelled")

    def run_together(self, parts: Sequence[Array]) -> Sequence[Logits | Exception]:
        """Run `parts` as one batch in the calling thread, past the queue: for a caller that makes all batches itself.

        One call at a time, and none of `submit`.
        """
        outcome = self._forward(parts)
        if outcome.logits is None:
            return outcome.parts
        ends = np.cumsum([len(part) for part in parts])
        return np.split(outcome.logits[: ends[-1]], ends[:-1])

    def close(self) -> None:
        """Let the thread end; waiting work is not run."""
        self._worker.close()

    def _admit(self, rows: int, due: float, now: float, timeout_s: float | None) -> bool:
        """Whether the work is taken as a probe; raises RefusedError where it is not taken at all."""
        waiting = self._waiting
        if self._worker.closed:
            raise self._stopped()
        if waiting.rows + rows > self._limits.max_queue_rows:
            self._count("full")
            detail = f"{waiting.rows} rows wait and {self._limits.max_queue_rows} may"
            raise self._overload(detail, self._expected_s(waiting.rows, now, self._limits.max_batch_rows))
        if timeout_s is None:
            return False
        expected_s = self._expected_s(waiting.rows_before(due) + rows, now, waiting.most_within(timeout_s))
        if expected_s + self._spare_s(timeout_s) <= timeout_s:
            return False
        # An idle model has nothing to lose.
        idle = not self._running and not waiting.rows
        if idle and (waiting.may_fit(rows, timeout_s) or now >= self._next_probe):
            self._next_probe = now + PROBE_EVERY_S
            return True
        self._count("late")
        detail = f"an answer would take {expected_s * 1e3:.0f} ms of {timeout_s * 1e3:.0f} ms"
        raise self._overload(detail, expected_s - timeout_s)

    def _spare_s(self, within_s: float) -> float:
        """Who is let in with no time to spare is late as often as not: what calls overran of late is kept free."""
        return min(2 * self._overrun_s, within_s / 10)

    def _expected_s(self, rows: int, now: float, batch_rows: int) -> float:
        """Until so many rows are worked off in batches of `batch_rows`."""
        current_s = max(0.0, self._running_s - (now - self._running_since)) if self._running else 0.0
        full, rest = divmod(rows, batch_rows)
        whole_s = full * self._waiting.call_s(batch_rows) if full else 0.0
        return current_s + whole_s + (self._waiting.call_s(rest) if rest else 0.0)

    def _overload(self, detail: str, wait_s: float) -> RefusedError:
        return RefusedError(Refused("overload", f"the model is overloaded: {detail}", self._waiting.rows, wait_s))

    def _next(self) -> None:
        """Hand the next batch to the thread, which is free."""
        self._called = False
        if not self._waiting.rows:
            return
        now = self._clock()
        if self._worker.closed:
            jobs: Sequence[Job] = list(self._waiting)
            for job in jobs:
                self._waiting.remove(job)
                self._refuse(job, "stopped", self._stopped())
            return
        formed = self._waiting.take(now)
        for job in formed.expired:
            self._refuse(job, "expired", self._late("the deadline passed while the request waited"))
        for job in formed.given_up:
            self._refuse(job, "given_up", self._overload("the deadline cannot be met any more", 0.0))
        if not formed.jobs:
            return
        self._running = jobs = formed.jobs
        self._running_since = now
        self._running_s = self._waiting.call_s(sum(job.count for job in jobs))
        loop = asyncio.get_running_loop()
        self._worker.do(partial(self._work, [job.rows for job in jobs], loop))

    def _work(self, parts: list[Array], loop: asyncio.AbstractEventLoop) -> None:
        """Runs in the thread."""
        outcome = self._forward(parts)
        try:
            loop.call_soon_threadsafe(self._finish, outcome)
        except RuntimeError:
            logger.debug("the event loop ended before the model answered")

    def _finish(self, outcome: Outcome) -> None:
        jobs, since = self._running, self._running_since
        self._running = ()
        over_s = max(0.0, self._clock() - since - self._running_s)
        self._overrun_s += (min(over_s, self._running_s) - self._overrun_s) / 8
        rows = 0
        for index, job in enumerate(jobs):
            part = outcome.parts[index] if outcome.logits is None else outcome.logits[rows : rows + job.count]
            rows += job.count
            if job.future.done():
                continue
            if isinstance(part, Exception):
                job.future.set_exception(part)
            else:
                job.future.set_result(part)
        if outcome.logits is not None and rows <= self._limits.max_batch_rows:
            self._pace.observe(outcome.padded_rows, outcome.batch_s + outcome.model_s)
        self._next()
        if self.on_batch is not None and outcome.logits is not None:
            queue_s = tuple([since - job.since for job in jobs])
            fill = rows / self._limits.max_batch_rows
            self.on_batch(
                BatchRecord(rows, outcome.padded_rows, len(jobs), queue_s, outcome.batch_s, outcome.model_s, fill)
            )

    def _sweep(self, now: float) -> float | None:
        """Refuse what is past its deadline, whether it waits or runs; the next deadline."""
        for job in self._waiting.expire(now):
            self._refuse(job, "expired", self._late("the deadline passed while the request waited"))
        due = self._waiting.next_expiry()
        for job in self._running:
            if job.expires is None or job.may_overrun or job.future.done():
                continue
            if job.expires <= now:
                self._refuse(job, "overran", self._late("the deadline passed while the model ran"))
            elif due is None or job.expires < due:
                due = job.expires
        return due

    def _late(self, detail: str) -> RefusedError:
        return RefusedError(Refused("timeout", detail, self._waiting.rows))

    def _stopped(self) -> RefusedError:
        return RefusedError(Refused("unavailable", "the model is being stopped"))

    def _refuse(self, job: Job, why: Shed, error: RefusedError) -> None:
        if not job.future.done():
            job.future.set_exception(error)
            job.future.exception()  # seen, though nobody may be left to be told
            self._count(why)

    def _count(self, why: Shed) -> None:
        self._shed[why] += 1
        if self.on_shed is not None:
            self.on_shed(why)
