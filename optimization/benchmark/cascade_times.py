"""Times of a cascade study: the pair, its parts and every variant, in this process and in turn."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optimization.measure.exclusive import exclusive
from optimization.measure.host import Load, LoadWatch
from optimization.measure.latency import ItemTime, Speedup, measure_stream, stream_speedup
from optimization.pair import Pair
from training.encoding import Array

BATCH_SIZES = (1, 8, 32)
# The fewest whose interval leaves out the worst round; a row's way decides its time, so many rows matter more.
ROUNDS = 9
ALONE_ROWS = 200


@dataclass(frozen=True)
class Roles:
    """Names of the variants: who answers first, who stands behind it, and which one alone they are compared with."""

    student: str
    teacher: str
    best: str


@dataclass(frozen=True)
class RowTimes:
    """Milliseconds of one row; the student's with what the pair itself reckons."""

    student_ms: float
    teacher_ms: float
    best_ms: float


@dataclass(frozen=True)
class Timed:
    """Time of a row at one batch size: of the roles and the pair, over the same rows and in turn; and of every variant
    alone, in a run of its own over fewer rows. `speedup` is the pair's over the best variant.
    """

    batch_size: int
    items: Mapping[str, ItemTime]
    alone: Mapping[str, ItemTime]
    speedup: Speedup
    load: Load

    @property
    def share(self) -> float:
        """The pair's time as a share of the best single variant's."""
        return 1 / self.speedup.ratio

    def to_json(self) -> dict[str, Any]:
        medians = {name: item.median_ms for name, item in (*self.alone.items(), *self.items.items())}
        return {**asdict(self), "median_ms": medians, "share": self.share, "share_low": 1 / self.speedup.upper}


def time_rows(
    runners: Mapping[str, Callable[[Array], Array]],
    roles: Roles,
    inputs: Array,
    batch_size: int,
    *,
    temperature: float,
    threshold: float | None,
    rounds: int = ROUNDS,
) -> Timed:
    """The pair and its parts in this process; `student in pair` never defers, so it is the pair's own share."""
    student, teacher = runners[roles.student], runners[roles.teacher]
    called: dict[str, Callable[[Array], Array]] = {name: runners[name] for name in (roles.teacher, roles.best)}
    called["student in pair"] = Pair(student, teacher, temperature, 0.0)
    called["pair"] = Pair(student, teacher, temperature, threshold)
    with exclusive(f"timing the pair at batch {batch_size}"):
        watch = LoadWatch()
        items = measure_stream(called, inputs, batch_size, rounds)
        alone = measure_stream(runners, inputs[:ALONE_ROWS], batch_size, rounds)
        load = watch.read()
    return Timed(batch_size, items, alone, stream_speedup(items[roles.best], items["pair"]), load)


def row_times(timed: Timed, roles: Roles) -> RowTimes:
    return RowTimes(*(timed.items[name].median_ms for name in ("student in pair", roles.teacher, roles.best)))
