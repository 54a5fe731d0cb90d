"""Gather: what waits for a model elsewhere goes there as few calls of many requests. Plain asyncio, no Ray.

Shape suffixes: B rows, C classes.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apps.backends.exchange import Answered, Call, Ready, Reply
from apps.backends.horizon import Horizon, Way
from apps.batching.alarm import Alarm
from apps.batching.forward import Logits
from apps.refusal import Refused, RefusedError
from training.encoding import Array

Send = Callable[[Sequence[Call]], AsyncIterator[Ready]]


@dataclass(frozen=True)
class GatherLimits:
    """At first `calls` may be under way; where replies find empty queues more may, up to `most_calls`.

    A call carries up to `call_bytes` (gRPC takes messages of 4 MB) of `call_requests`; `max_queue_rows` may wait here.
    For `hint_s` a replica's word is taken that it has no time.
    """

    calls: int = 2
    most_calls: int = 64
    call_bytes: int = 2_000_000
    call_requests: int = 256
    max_queue_rows: int = 2_048
    hint_s: float = 0.025


@dataclass(eq=False, slots=True)
class _Entry:
    rows: Array
    expires: float | None
    future: "asyncio.Future[Answered]"
    trace: str | None = None
    call: "_Call | None" = None


@dataclass(eq=False, slots=True)
class _Call:
    entries: Sequence[_Entry]
    task: "asyncio.Task[None] | None" = None


class Gather:
    """Sends at once while few calls are under way; what comes meanwhile goes together when one returns.

    A request that cannot wait for that goes at once too. Each has its own deadline and its own answer.
    """

    def __init__(
        self,
        send: Send,
        explain: Callable[[Exception], Refused],
        limits: GatherLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        carried: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`send` yields what is ready as it gets ready; `explain` turns what it raises into a refusal.

        `carried` is the `traceparent` of the request that asks, if it is traced.
        """
        self._send = send
        self._explain = explain
        self._limits = limits or GatherLimits()
        self._clock = clock
        self._carried = carried
        self._alarm = Alarm(self._sweep, clock)
        self._waiting: list[_Entry] = []
        self._waiting_rows = 0
        self._calls: dict[_Call, None] = {}
        self._may = self._limits.calls
        self._call_s = 0.0
        self._called = False
        self._horizon = Horizon(self._limits.hint_s)
        self._turned_away = 0
        self._way = Way()
        self.queue_rows = 0
        """Rows that waited at the model when it last answered."""

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    @property
    def waiting_rows(self) -> int:
        """Rows that wait here."""
        return self._waiting_rows

    async def ask(self, rows_B: Array, timeout_s: float | None) -> Logits:
        """Logits [B, C] within `timeout_s` (None: whenever); raises RefusedError."""
        parts = _split(rows_B, self._limits.call_bytes)
        entries: list[_Entry] = []
        try:
            for part_B in parts:
                entries.append(self._enter(part_B, timeout_s))
            logits = []
            for entry in entries:
                answered = await entry.future
                if isinstance(answered, Refused):
                    raise RefusedError(answered)
                logits.append(answered.logits)
        finally:
            for entry in entries:
                if not entry.future.done() or entry.future.cancelled():
                    self._leave(entry)
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _enter(self, rows_B: Array, timeout_s: float | None) -> _Entry:
        now = self._clock()
        if timeout_s is not None:
            late_s = self._horizon.answers_at(now) - now - self._at_model_s(timeout_s)
            if late_s > 0:
                self._turned_away += 1
                detail = f"the model would answer {late_s * 1e3:.0f} ms too late"
                raise RefusedError(Refused("overload", detail, self.queue_rows, late_s))
        if self._waiting_rows + len(rows_B) > self._limits.max_queue_rows:
            detail = f"{self._waiting_rows} rows wait for the model and {self._limits.max_queue_rows} may"
            raise RefusedError(Refused("overload", detail, self.queue_rows, self._call_s))
        expires = None if timeout_s is None else now + timeout_s
        entry = _Entry(rows_B, expires, asyncio.get_running_loop().create_future(), self._carried())
        self._waiting.append(entry)
        self._waiting_rows += len(rows_B)
        if len(self._calls) < self._may or self._is_urgent(entry, now):
            self._soon()
        elif expires is not None:
            self._alarm.by(self._urgent_at(expires))
        if expires is not None:
            self._alarm.by(expires)
        return entry

    def _leave(self, entry: _Entry) -> None:
        """Nobody waits for `entry` any more."""
        entry.future.cancel()
        if entry.call is None:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._waiting_rows -= len(entry.rows)
            return
        self._abandon_if_done(entry.call)

    def _abandon_if_done(self, call: _Call) -> None:
        if call.task is not None and call in self._calls and all(entry.future.done() for entry in call.entries):
            # Its rows leave the queue over there, and a model that will never answer holds no call of ours.
            call.task.cancel()

    def _soon(self) -> None:
        """Not at once: what else has arrived in this turn of the loop belongs into the same call."""
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _urgent_at(self, expires: float) -> float:
        return expires - 2 * self._call_s

    def _is_urgent(self, entry: _Entry, now: float) -> bool:
        return entry.expires is not None and self._urgent_at(entry.expires) <= now

    def _flush(self) -> None:
        self._called = False
        if not self._waiting:
            return
        now = self._clock()
        if len(self._calls) >= self._may:
            urgent = any(self._is_urgent(entry, now) for entry in self._waiting)
            if not urgent or len(self._calls) >= self._limits.most_calls:
                return
        waiting = self._waiting
        self._waiting, self._waiting_rows = [], 0
        group: list[_Entry] = []
        size = 0
        for entry in sorted(waiting, key=lambda entry: float("inf") if entry.expires is None else entry.expires):
            if entry.expires is not None and entry.expires <= now:
                entry.future.set_result(_never_asked())
                continue
            full = len(group) >= self._limits.call_requests or size + entry.rows.nbytes > self._limits.call_bytes
            if group and full:
                self._start(group)
                group, size = [], 0
            group.append(entry)
            size += entry.rows.nbytes
        if group:
            self._start(group)

    def _start(self, entries: list[_Entry]) -> None:
        call = _Call(entries)
        for entry in entries:
            entry.call = call
        self._calls[call] = None
        self._horizon.sent(sum(len(entry.rows) for entry in entries), self._clock())
        # A context of its own: Serve ends what a request started when that request ends, and here others ride along.
        loop = asyncio.get_running_loop()
        call.task = loop.create_task(self._carry(call), context=contextvars.Context())

    async def _carry(self, call: _Call) -> None:
        started = self._clock()
        calls = [
            Call(entry.rows, None if entry.expires is None else self._at_model_s(entry.expires - started), entry.trace)
            for entry in call.entries
        ]
        if self._turned_away:
            calls[0] = replace(calls[0], turned_away=self._turned_away)
            self._turned_away = 0
        try:
            async for ready in self._send(calls):
                for index, answered in ready:
                    self._heed(answered, calls[index].timeout_s, started)
                    self._answer(call.entries[index], answered)
            missing = Refused("unavailable", "the model gave no answer")
            # Half of what it was plus half of what it is: two calls that were held up do not make all urgent for long.
            self._call_s += (self._clock() - started - self._call_s) / 2
            # An empty queue could have done with more calls; where rows wait they may as well wait here, together.
            if self.queue_rows == 0:
                self._may = min(self._may + 1, self._limits.most_calls)
            else:
                self._may = max(self._may - 1, self._limits.calls)
        except Exception as error:
            missing = self._explain(error)
        finally:
            del self._calls[call]
            if self._waiting:
                self._soon()
        for entry in call.entries:
            self._answer(entry, missing)

    def _answer(self, entry: _Entry, answered: Answered) -> None:
        if not entry.future.done():
            entry.future.set_result(answered)

    def _at_model_s(self, left_s: float) -> float:
        """What the model has of the time that is left: the way there and back takes some."""
        return max(left_s / 2, left_s - self._way.margin_s)

    def _heed(self, answered: Answered, timeout_s: float | None, started: float) -> None:
        """What an answer tells of the model."""
        if isinstance(answered, Refused) and answered.reason != "overload":
            return
        self.queue_rows = answered.queue_rows
        now = self._clock()
        trip_s = now - started
        if isinstance(answered, Reply):
            self._way.took(trip_s - answered.spent_s)
            knew_until = now - self._way.mean_s
            self._horizon.heard(answered.replica, knew_until + answered.next_s, now, answered.step_s, knew_until)
        elif answered.wait_s > 0 and timeout_s is not None:
            # Refused on arrival. Were the way learned from replies alone, one believed too long would get none.
            if trip_s < self._way.mean_s:
                self._way.took(trip_s)
            self._horizon.heard(answered.replica, started + timeout_s + answered.wait_s, now)

    def _sweep(self, now: float) -> float | None:
        """Refuse what is past its deadline, send what gets urgent; the next of these moments."""
        moments = []
        for entry in [*self._waiting, *(entry for call in list(self._calls) for entry in call.entries)]:
            if entry.expires is None or entry.future.done():
                continue
            if entry.expires > now:
                moments.append(entry.expires)
                if entry.call is None and (urgent_at := self._urgent_at(entry.expires)) > now:
                    moments.append(urgent_at)
            elif entry.call is None:
                self._waiting.remove(entry)
                self._waiting_rows -= len(entry.rows)
                entry.future.set_result(_never_asked())
            else:
                entry.future.set_result(Refused("timeout", "no answer before the deadline"))
                self._abandon_if_done(entry.call)
        if self._waiting:
            self._soon()
        return min(moments, default=None)


def _never_asked() -> Refused:
    return Refused("overload", "the deadline passed before there was room for a call of the model")


def _split(rows_B: Array, most_bytes: int) -> list[Array]:
    """Runs of rows that each fit into `most_bytes`, or are one row."""
    if rows_B.nbytes <= most_bytes:
        return [rows_B]
    step = max(1, most_bytes // (rows_B.nbytes // len(rows_B)))
    return [rows_B[at : at + step] for at in range(0, len(rows_B), step)]
