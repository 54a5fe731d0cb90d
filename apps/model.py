"""Model: the Serve deployment around a Batcher and a Runner. It knows arrays, no task."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

from ray import serve

from apps.backends.exchange import Answered, Call, Ready, Reply
from apps.batching.batcher import Batcher, Job
from apps.interfaces import keep_to_loopback
from apps.interpreter import settle
from apps.load import Batching, ModelSource, open_batcher
from apps.observe.metered import export_batcher
from apps.observe.tracing import NoTracing, Tracing, open_tracing
from apps.refusal import Refused, RefusedError
from apps.scaling_signals import ModelSignals

__all__ = ["STUCK_S", "Call", "Model", "Reply"]

logger = logging.getLogger("ray.serve")

# A call that runs for so long will not come back: the replica is better replaced.
STUCK_S = 30.0


class Model:
    """Loads its Version and warms up before it is ready."""

    def __init__(self, source: ModelSource) -> None:
        keep_to_loopback()
        tracing = open_tracing(source.trace, source.counted_as.role if source.counted_as else "model")
        batcher, runs_on = open_batcher(source.fetch(), source)
        if source.counted_as is not None:
            export_batcher(batcher, runs_on, source.counted_as)
        self._stand_on(batcher, source.batching, source.limits.max_batch_rows, tracing)
        settle()

    def _stand_on(
        self, batcher: Batcher, batching: Batching, max_batch_rows: int, tracing: Tracing | None = None
    ) -> None:
        self._batcher = batcher
        self._replica = uuid4().hex[:8]
        self._signals = ModelSignals(batcher, batcher.call_s, max_batch_rows)
        self._tracing = tracing or NoTracing()
        self._stock = batching == "ray"
        if self._stock:
            timed: Any = self._timed
            timed.set_max_batch_size(max_batch_rows)

    async def infer(self, call: Call) -> Answered:
        """The way of a request that goes alone."""
        with self._tracing.serve("model", [call.trace], rows=len(call.rows)):
            if self._stock:
                answered: Answered = await self._timed(call)
                return answered
            (job,) = await self._hand_over([call])
            if isinstance(job, Refused):
                return job
            try:
                await asyncio.wait([job.future])
                return self._answered(job)
            finally:
                self._let_go([job])

    async def infer_many(self, calls: Sequence[Call]) -> AsyncIterator[Ready]:
        """The way of a micro-batch: refusals come at once, logits as they are there, each to its own place."""
        with self._tracing.serve("model", [call.trace for call in calls], calls=len(calls)):
            async for ready in self._answer_many(calls):
                yield ready

    async def _answer_many(self, calls: Sequence[Call]) -> AsyncIterator[Ready]:
        if self._stock:
            yield list(enumerate(await asyncio.gather(*map(self._timed, calls))))
            return
        handed = await self._hand_over(calls)
        jobs = {index: job for index, job in enumerate(handed) if isinstance(job, Job)}
        if len(jobs) < len(handed):
            yield [(index, refused) for index, refused in enumerate(handed) if isinstance(refused, Refused)]
        try:
            async for done in _as_they_end(jobs):
                yield [(index, self._answered(jobs[index])) for index in done]
        finally:
            self._let_go(list(jobs.values()))

    # Hands over what has arrived without waiting for more: the Batcher behind it decides what runs together, when its
    # thread frees.
    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0, max_concurrent_batches=16)
    async def _hand_over(self, groups: list[Sequence[Call]], /) -> list[list[Job | Refused]]:
        return [[self._enqueue(call) for call in calls] for calls in groups]

    # As Serve ships it: a batch is sealed when its time is up, whether or not the model is free. For comparison.
    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
    async def _timed(self, calls: list[Call], /) -> list[Answered]:
        run = partial(self._batcher.run_together, [call.rows for call in calls])
        parts = await asyncio.to_thread(run)
        return [self._failed(part) if isinstance(part, Exception) else Reply(part, 0) for part in parts]

    def _enqueue(self, call: Call) -> Job | Refused:
        if call.turned_away:
            self._signals.turned_away(call.turned_away)
        try:
            # What a call has here is less than its caller has: the way back takes some, and seldom as much as it may.
            return self._batcher.enqueue(call.rows, call.timeout_s, may_overrun=True)
        except RefusedError as error:
            return replace(error.refused, replica=self._replica)

    def _answered(self, job: Job) -> Answered:
        error = job.future.exception()
        if error is None:
            spent_s = time.monotonic() - job.since
            next_s, step_s = self._batcher.outlook()
            return Reply(job.future.result(), self._batcher.queue_rows, spent_s, next_s, step_s, self._replica)
        return error.refused if isinstance(error, RefusedError) else self._failed(error)

    def _failed(self, error: BaseException) -> Refused:
        logger.error("the model failed", exc_info=error)
        return Refused("unavailable", f"the model failed: {error}", self._batcher.queue_rows)

    def _let_go(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not job.future.done():
                self._batcher.withdraw(job)
            elif not job.future.cancelled():
                job.future.exception()  # seen, though nobody may have been left to be told

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._signals.read()

    def check_health(self) -> None:
        if self._batcher.busy_s > STUCK_S:
            raise RuntimeError(f"a call has been running for {self._batcher.busy_s:.0f} s")

    def __del__(self) -> None:
        batcher: Batcher | None = getattr(self, "_batcher", None)
        if batcher is not None:
            batcher.close()


async def _as_they_end(jobs: dict[int, Job]) -> AsyncIterator[list[int]]:
    """The keys of `jobs` whose futures have ended since the last time, until all have."""
    ended: list[int] = []
    some = asyncio.Event()

    def note(index: int, _: "asyncio.Future[object]") -> None:
        ended.append(index)
        some.set()

    for index, job in jobs.items():
        job.future.add_done_callback(partial(note, index))
    left = len(jobs)
    while left:
        await some.wait()
        some.clear()
        done = list(ended)
        ended.clear()
        left -= len(done)
        yield done
