"""Choice: which candidate is what was asked for, and why. Shape suffixes: N rows of the gate split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from optimization.gate import Check, non_inferior
from optimization.measure.latency import Latency, Speedup, speedup
from optimization.search.making import Made
from optimization.search.pareto import Point
from optimization.search.pipeline import Pipeline
from optimization.table import size_text

Objective = Literal["throughput", "latency", "size", "accuracy"]


def row_ms(latency: Latency, objective: Objective) -> float:
    """The time of a row, as the objective looks at it: in the batches that are best for it, or alone."""
    if objective == "throughput":
        return 1e3 / max(batch.rows_per_s for batch in latency.batches)
    return latency.at(1).p50_ms


@dataclass(frozen=True)
class Candidate:
    """A pipeline that was carried out to its end, with what was measured of it beside all others."""

    number: int
    pipeline: Pipeline
    made: Made
    latency: Latency
    correct_N: NDArray[np.bool_]

    @property
    def rows_per_s(self) -> float:
        """At the batch size that is best for it."""
        return max(batch.rows_per_s for batch in self.latency.batches)

    def point(self, objective: Objective) -> Point:
        return Point(self.number, self.made.accuracy, row_ms(self.latency, objective), self.made.size_bytes)

    def speedup_over(self, other: "Candidate", batch_size: int = 1) -> Speedup:
        return speedup(other.latency, self.latency, batch_size)


@dataclass(frozen=True)
class Wish:
    """What a user asks for. `max_accuracy_drop` is a fraction: of the teacher's accuracy no more may be lost, which the
    gate rows must show at 95 % confidence.
    """

    objective: Objective = "throughput"
    max_accuracy_drop: float | None = 0.01
    max_p95_ms: float | None = None  # of one row
    max_size_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ValueError(f"the objective {self.objective!r} is not one of {', '.join(get_args(Objective))}")
        if self.max_accuracy_drop is not None and not 0 < self.max_accuracy_drop < 1:
            raise ValueError(
                f"an accuracy drop of at most {100 * self.max_accuracy_drop:g} points: give more than 0 and less "
                "than 100"
            )
        for name in ("max_p95_ms", "max_size_bytes"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} is {limit}: it must be above 0")


@dataclass(frozen=True)
class Choice:
    """`number` is None where nothing fits; `checks` by number say what each candidate was held to."""

    number: int | None
    reason: str
    checks: Mapping[int, tuple[Check, ...]]


def choose(candidates: Sequence[Candidate], teacher: Candidate, wish: Wish) -> Choice:
    """The best by the objective among those that keep every limit; of equals the more accurate, then the smaller."""
    checks = {one.number: _checks(one, teacher, wish) for one in candidates}
    fitting = [one for one in candidates if all(check.passed for check in checks[one.number])]
    if not fitting:
        return Choice(None, _say_none(candidates, checks), checks)
    best = min(fitting, key=lambda one: _place(one, wish.objective))
    faster = best.speedup_over(teacher)
    shown = f"{faster.ratio:.2f} times as fast alone" if faster.is_faster else "no faster for certain alone"
    reason = (
        f"{best.pipeline.label}: the best {wish.objective} of the {len(fitting)} of {len(candidates)} candidates that "
        f"keep every limit; {100 * (best.made.accuracy - teacher.made.accuracy):+.2f} points of accuracy against the "
        f"teacher, {shown}, {best.rows_per_s / teacher.rows_per_s:.2f} times its throughput, "
        f"{teacher.made.size_bytes / best.made.size_bytes:.2f} times smaller"
    )
    return Choice(best.number, reason, checks)


def _place(one: Candidate, objective: Objective) -> tuple[float, ...]:
    figures = {
        "throughput": -one.rows_per_s,
        "latency": one.latency.at(1).p50_ms,
        "size": float(one.made.size_bytes),
        "accuracy": -one.made.accuracy,
    }
    return figures[objective], -one.made.accuracy, float(one.made.size_bytes), one.number


def _checks(one: Candidate, teacher: Candidate, wish: Wish) -> tuple[Check, ...]:
    checks = []
    if wish.max_accuracy_drop is not None:
        checks.append(
            non_inferior(teacher.correct_N, one.correct_N, wish.max_accuracy_drop, candidate="It", reference="the "
                         "teacher")
        )  # fmt: skip
    if wish.max_p95_ms is not None:
        p95_ms = one.latency.at(1).p95_ms
        sentence = f"p95 of one row is {p95_ms:.3g} ms; at most {wish.max_p95_ms:.3g} ms may be"
        checks.append(Check("p95", p95_ms <= wish.max_p95_ms, p95_ms, wish.max_p95_ms, sentence))
    if wish.max_size_bytes is not None:
        size, limit = one.made.size_bytes, wish.max_size_bytes
        sentence = f"it takes {size_text(size)}; at most {size_text(limit)} may be"
        checks.append(Check("size", size <= limit, float(size), float(limit), sentence))
    return tuple(checks)


def _say_none(candidates: Sequence[Candidate], checks: Mapping[int, tuple[Check, ...]]) -> str:
    nearest = min(candidates, key=lambda one: sum(not check.passed for check in checks[one.number]))
    failed = "; ".join(check.sentence for check in checks[nearest.number] if not check.passed)
    return f"none of {len(candidates)} candidates keeps every limit. The nearest, {nearest.pipeline.label}: {failed}"
