"""Cost: what a row costs a pair on average, by how many rows it leaves to the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

from optimization.cascade.calibration import CurvePoint


@dataclass(frozen=True)
class CostPoint:
    """One threshold: `cost_ms` is the expected time of a row, see `expected_cost_ms`."""

    threshold: float
    deferral: float
    accuracy: float
    harm: float
    cost_ms: float


def expected_cost_ms(student_ms: float, teacher_ms: float, deferral: float) -> float:
    """The student answers every row, the teacher those that are deferred as well.

    Raises ValueError on times that are none and shares outside 0..1.
    """
    if not (student_ms > 0 and teacher_ms > 0 and 0 <= deferral <= 1):
        raise ValueError(
            f"student {student_ms} ms, teacher {teacher_ms} ms, deferral {deferral}: give times above 0 and a share"
        )
    return student_ms + deferral * teacher_ms


def cost_curve(points: Sequence[CurvePoint], student_ms: float, teacher_ms: float) -> tuple[CostPoint, ...]:
    """Each point of a calibration's curve with what it costs, by measured times of one row."""
    return tuple(
        CostPoint(
            point.threshold,
            point.deferral,
            point.accuracy,
            point.harm,
            expected_cost_ms(student_ms, teacher_ms, point.deferral),
        )
        for point in points
    )


def break_even_deferral(student_ms: float, teacher_ms: float) -> float:
    """The deferral at which the pair takes as long as its teacher alone; 0 where the student is no faster."""
    return max(0.0, 1 - student_ms / teacher_ms)


def thinned(points: Sequence[CostPoint], step: float = 0.05) -> tuple[CostPoint, ...]:
    """Points at least `step` of deferral apart, the first and the last among them: enough to draw the curve."""
    kept: list[CostPoint] = []
    for point in sorted(points, key=lambda point: -point.deferral):
        if not kept or kept[-1].deferral - point.deferral >= step:
            kept.append(point)
    last = min(points, key=lambda point: point.deferral)
    if kept and kept[-1].deferral > last.deferral:
        kept.append(last)
    return tuple(kept)
