"""Waiting: the queue before a model, its most urgent work first, and the choice of what runs together next."""

import asyncio
import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.batching.collate import padded_rows
from apps.batching.pace import Pace
from training.encoding import Array

# How much more must be answered in a second for the most urgent work to be given up, where all cannot be answered.
WORTH_GIVING_UP = 1.5


@dataclass(frozen=True)
class BatchLimits:
    """`max_batch_rows` run in one call; `max_queue_rows` may wait.

    `sizes`, ascending up to `max_batch_rows`, are those that the runtime likes (shapes captured on a GPU): a batch is
    padded up to the next of them.
    """

    max_batch_rows: int = 32
    max_queue_rows: int = 512
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ascending = list(self.sizes) == sorted(set(self.sizes)) and all(size >= 1 for size in self.sizes)
        if not ascending or (self.sizes and self.sizes[-1] != self.max_batch_rows):
            raise ValueError(
                f"the batch sizes are {list(self.sizes)} and max_batch_rows is {self.max_batch_rows}: "
                "give them ascending, the last one as max_batch_rows"
            )


@dataclass(eq=False, slots=True)
class Job:
    """Rows [B, ...] that wait since `since`. Ordered by `due`; of no use after `expires` (None: always of use).

    `probe`: taken on although it seems too late, to find out whether it is. `may_overrun`: once it runs, its caller
    keeps the time.
    """

    rows: Array
    since: float
    due: float
    expires: float | None
    future: "asyncio.Future[Any]"
    probe: bool = False
    may_overrun: bool = False
    waits: bool = False
    order: int = 0
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.rows)


@dataclass(frozen=True)
class Formed:
    """What runs next, and what is dropped: for its deadline passed, or for it cannot be met any more."""

    jobs: Sequence[Job]
    expired: Sequence[Job]
    given_up: Sequence[Job]


class Waiting:
    """Jobs in the order of their deadlines."""

    def __init__(self, limits: BatchLimits, pace: Pace) -> None:
        self._limits = limits
        self._pace = pace
        self._entries: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self.rows = 0

    def __iter__(self) -> Iterator[Job]:
        return (job for _, _, job in self._entries)

    def add(self, job: Job) -> None:
        job.order = next(self._order)
        job.waits = True
        insort(self._entries, (job.due, job.order, job))
        self.rows += job.count

    def remove(self, job: Job) -> bool:
        """Whether it waited."""
        if not job.waits:
            return False
        del self._entries[bisect_left(self._entries, (job.due, job.order), key=lambda entry: entry[:2])]
        self._left(job)
        return True

    def rows_before(self, due: float) -> int:
        """Rows that run before a job which is due then."""
        if not self._entries or due >= self._entries[-1][0]:
            return self.rows
        end = bisect_right(self._entries, due, key=lambda entry: entry[0])
        return sum(job.count for _, _, job in self._entries[:end])

    def expire(self, now: float) -> list[Job]:
        """Takes out and returns what is of no use any more."""
        late = [job for _, _, job in self._entries if job.expires is not None and job.expires <= now]
        for job in late:
            self.remove(job)
        return late

    def next_expiry(self) -> float | None:
        return next((job.expires for _, _, job in self._entries if job.expires is not None), None)

    def take(self, now: float) -> Formed:
        """The most urgent jobs that together neither exceed a batch that is worth it nor outlast a deadline of theirs.

        A job of more rows than a batch is taken alone. Jobs that cannot be in time even alone are dropped, and so are
        the most urgent ones where they would keep the batch so small that more of the rest were late for it.
        """
        expired: list[Job] = []
        given_up: list[Job] = []
        taken: list[Job] = []
        rows, most = 0, self._ceiling
        bounded = False
        index, behind = 0, self.rows
        entries = self._entries
        while index < len(entries):
            job = entries[index][2]
            if job.expires is not None and not bounded:
                if job.expires <= now or self._hopeless(job, job.expires - now):
                    (expired if job.expires <= now else given_up).append(job)
                    behind -= job.count
                    index += 1
                    continue
                start = self._better_start(index, behind, now)
                given_up.extend(entry[2] for entry in entries[index:start])
                index = start
                due, _, job = entries[start]
                most = min(most, self._most(due - now))
                bounded = True
            if taken and rows + job.count > most:
                break
            taken.append(job)
            rows += job.count
            behind -= job.count
            index += 1
        if not taken and given_up and self.may_fit(given_up[-1].count, given_up[-1].due - now):
            # Else the model would stand idle: a call that is as short as some were costs nobody anything.
            taken.append(given_up.pop())
        del entries[:index]
        for gone in (taken, expired, given_up):
            for job in gone:
                self._left(job)
        return Formed(taken, expired, given_up)

    def _left(self, job: Job) -> None:
        job.waits = False
        self.rows -= job.count

    def _hopeless(self, job: Job, left_s: float) -> bool:
        return not job.probe and self.call_s(job.count) > left_s

    def call_s(self, rows: int) -> float:
        """How long a call of so many rows is expected to take, in parts where they are more than a batch."""
        full, rest = divmod(rows, self._limits.max_batch_rows)
        whole_s = full * self._pace.seconds(self._limits.max_batch_rows) if full else 0.0
        return whole_s + self._pace.seconds(padded_rows(rest, self._limits.sizes) if rest else 0)

    def may_fit(self, rows: int, left_s: float) -> bool:
        """Whether the shortest recent calls would do: where a median does not fit, many a call may."""
        return self._pace.at_best(rows) <= left_s

    def most_within(self, seconds: float) -> int:
        """The largest batch that is worth it and expected to take no longer; at least 1."""
        return max(1, min(self._ceiling, self._most(seconds)))

    @property
    def _ceiling(self) -> int:
        worth = self._pace.rows_worth_it(self._limits.max_batch_rows)
        return padded_rows(worth, self._limits.sizes)

    def _most(self, seconds: float) -> int:
        if not self._limits.sizes:
            return self._pace.rows_within(seconds, self._limits.max_batch_rows)
        fitting = [size for size in self._limits.sizes if self._pace.seconds(size) <= seconds]
        return fitting[-1] if fitting else 0

    def _better_start(self, first: int, behind: int, now: float) -> int:
        """The entry to begin the batch with: `first`, unless its deadline costs the others more than it is worth.

        A deadline that leaves time for a small batch only can start a collapse: what waits behind gets as late, and
        has small batches in its turn. Where a call of many rows takes little longer than one of few, more are answered
        in time without the first. `behind` rows wait from `first` on. (As the early drop of Nexus, SOSP 2019.)
        """
        entries = self._entries
        ceiling = self._ceiling
        most = max(min(ceiling, self._most(entries[first][0] - now)), entries[first][2].count)
        if most >= min(behind, ceiling):
            return first
        first_s = self.call_s(most)
        rest, passed = behind, False
        best, best_rate = first, WORTH_GIVING_UP * most / max(first_s, 1e-9)
        for index in range(first, len(entries)):
            due, _, job = entries[index]
            if job.expires is None or rest <= most:
                break
            if not passed and behind - rest >= most:
                passed = True
                if self._most(due - now - first_s) >= min(rest, ceiling):
                    # Who comes after the small batch has the time for a large one: nobody needs to be given up.
                    return first
            size = min(ceiling, self._most(due - now), rest)
            rate = size / max(self.call_s(size), 1e-9)
            if rate > best_rate and job.count <= size:
                # The fewest are given up that make most of the difference.
                best, best_rate = index, rate * 1.1
            rest -= job.count
        return best
