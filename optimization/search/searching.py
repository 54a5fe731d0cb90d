"""Searching: the rungs one after the other, what was measured of each, what came of all of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from optimization.measure.batches import as_served
from optimization.measure.exclusive import exclusive
from optimization.measure.host import LoadWatch
from optimization.measure.latency import BATCH_SIZES, measure_latency
from optimization.runners.open import open_runner
from optimization.search.book import Book, Result, Times
from optimization.search.choice import Candidate, Wish, row_ms
from optimization.search.making import Made, Workshop, gate_logits, load_made
from optimization.search.on_tune import Observer, run_rung
from optimization.search.pareto import Point, survivors
from optimization.search.pipeline import Pipeline
from optimization.search.space import leaders_first
from training.task import Task
from training.tuning.queue import Room

TEACHER = Pipeline()  # its graph as it is: what everything else is compared with
# An interval of a speed-up needs 6 rounds or more. The last rung's times are those that are shown.
ROUNDS_CHEAP, ROUNDS_LAST, CALLS = 6, 12, 5


@dataclass(frozen=True)
class Rungs:
    """The share of its epochs that each training gets on each rung, and how many pipelines go on from one to the next.

    What does not train, such as a quantized teacher, is the same on every rung, and is made once.
    """

    shares: tuple[float, ...] = (0.25, 1.0)
    keep: float = 0.5

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or not rising or not self.shares[0] > 0 or self.shares[-1] != 1:
            raise ValueError(f"the rungs are {list(self.shares)}: give shares of the epochs that rise to 1")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}: the share that goes on lies in 0 < keep <= 1")


@dataclass
class Climb:
    """Where a search stands: what is on the rung that it has come to, and what became of the rest."""

    results: dict[int, Result] = field(default_factory=dict)
    times: Times | None = None
    failed: dict[int, str] = field(default_factory=dict)
    dropped: dict[int, tuple[int, Result]] = field(default_factory=dict)
    complete: bool = True


def climb(
    pipelines: Mapping[int, Pipeline],
    rungs: Rungs,
    shop: Workshop,
    task: Task,
    wish: Wish,
    book: Book,
    room_of: Callable[[int], Room],
    observer: Callable[[int, int], Observer],
) -> Climb:
    """Carry `pipelines` out rung by rung, going on with what `book` holds.

    `room_of` says, for a number of pipelines, how many may run at once; `observer` makes who is told of a rung with so
    many of them. Times are measured once all of a rung are made, in turns, with the machine to themselves.
    """
    stand, left = Climb(), dict(pipelines)
    for rung, share in enumerate(rungs.shares, 1):
        known = book.results(rung)
        waiting = _ordered({number: one for number, one in left.items() if number not in known})
        if waiting:
            told = _Noting(book, rung, observer(rung, len(waiting)))
            room = room_of(len(waiting))
            if not run_rung(waiting, share, shop, room, str(book.folder / "tune"), told):
                stand.complete = False
                return stand
            known = book.results(rung)
        results = {number: known[number] for number in left}
        stand.failed |= {number: found.error for number, found in results.items() if found.made is None}
        stand.results = {number: found for number, found in results.items() if found.made is not None}
        last = rung == len(rungs.shares)
        stand.times = _times(stand.results, rung, task, shop.threads, book, ROUNDS_LAST if last else ROUNDS_CHEAP)
        if not last:
            left = _that_go_on(left, stand, rung, rungs.keep, wish)
    return stand


def _ordered(pipelines: Mapping[int, Pipeline]) -> dict[int, Pipeline]:
    """Those first that others wait for. Who led on the rung before may have been given up."""
    numbers = {one: number for number, one in pipelines.items()}
    return {numbers[one]: one for one in leaders_first(list(pipelines.values()))}


class _Noting:
    """Writes each result into the book before anybody hears of it."""

    def __init__(self, book: Book, rung: int, observer: Observer) -> None:
        self._book, self._rung, self._observer = book, rung, observer

    def stage(self, number: int, said: str) -> None:
        self._observer.stage(number, said)

    def over(self, result: Result) -> None:
        self._book.save(self._rung, result)
        self._observer.over(result)


def _that_go_on(left: Mapping[int, Pipeline], stand: Climb, rung: int, keep: float, wish: Wish) -> dict[int, Pipeline]:
    """The survivors, and the teacher in any case; the others are noted as dropped."""
    assert stand.times is not None, "a rung was measured"
    points = []
    for number, result in stand.results.items():
        made = _made(result)
        time_ms = row_ms(stand.times.latency[made.digest], wish.objective)
        points.append(Point(number, made.accuracy, time_ms, made.size_bytes))
    kept = set(survivors(points, keep)) | {number for number, one in left.items() if one == TEACHER}
    stand.dropped |= {number: (rung, found) for number, found in stand.results.items() if number not in kept}
    return {number: one for number, one in left.items() if number in kept and number in stand.results}


def _times(results: Mapping[int, Result], rung: int, task: Task, threads: int, book: Book, rounds: int) -> Times:
    """Of every graph of the rung. What the book has of all of them is not measured again."""
    graphs = {made.digest: load_made(made)[-1] for made in map(_made, results.values())}
    known = book.times(rung)
    if known is not None and set(known.latency) >= set(graphs):
        return known
    rows = task.splits["gate"].inputs
    runners = {digest: open_runner(graph, threads) for digest, graph in graphs.items()}
    with exclusive(f"timing {len(graphs)} candidates"):
        watch = LoadWatch()
        latency = measure_latency(
            runners,
            lambda size: as_served(task.encoding, rows[np.arange(size) % len(rows)]),
            BATCH_SIZES,
            rounds,
            CALLS,
        )
        times = Times(latency, watch.read())
    book.save_times(rung, times)
    return times


def candidates_of(stand: Climb, pipelines: Mapping[int, Pipeline], task: Task, threads: int) -> list[Candidate]:
    """What came to the end of the last rung, with the rows that each answers right."""
    labels_N = task.splits["gate"].labels
    assert stand.times is not None, "a search that came to its end was measured"
    found = []
    for number, result in stand.results.items():
        made = _made(result)
        logits_NC = gate_logits(load_made(made)[-1], task, threads)
        correct_N = logits_NC.argmax(axis=1) == labels_N
        found.append(Candidate(number, pipelines[number], made, stand.times.latency[made.digest], correct_N))
    return found


def _made(result: Result) -> Made:
    assert result.made is not None, "what failed is not among them"
    return result.made


class Terminal:
    """Says on the terminal what each pipeline is at, and what became of it."""

    def __init__(self, rung: str, pipelines: Mapping[int, Pipeline], total: int) -> None:
        self._rung, self._pipelines, self._total = rung, pipelines, total
        self._done, self._began = 0, time.monotonic()

    def stage(self, number: int, said: str) -> None:
        self._say(f"{self._pipelines[number].label}: {said}")

    def over(self, result: Result) -> None:
        self._done += 1
        label = self._pipelines[result.number].label
        if result.made is None:
            self._say(f"{label}: cannot be carried out: {result.error}")
            return
        made = result.made
        reused = f", {', '.join(made.reused)} reused" if made.reused else ""
        self._say(f"{label}: {made.accuracy:.2%} of the gate rows, {made.seconds:.0f} s{reused}")

    def _say(self, said: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"search: rung {self._rung}, {self._done}/{self._total}, {minutes}:{seconds:02d}  {said}", flush=True)


def numbered(pipelines: Sequence[Pipeline]) -> dict[int, Pipeline]:
    """By number from 1, the teacher's own graph among them."""
    every = pipelines if TEACHER in pipelines else (TEACHER, *pipelines)
    return dict(enumerate(every, 1))
