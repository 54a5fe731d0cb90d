"""Expectation: what a Release says of the pair beside its guarantee, from rows that chose nothing of it."""

from optimization.cascade.calibration import Calibration, pair_curve
from optimization.cascade.cost import cost_curve, expected_cost_ms, thinned
from optimization.cascade.rows import Rows, score_pair
from optimization.cascade.shift import Shift
from optimization.release import Expectation, ExpectedPoint, ExpectedShift

CONFIDENCE = 0.95


def expect(
    rows: Rows, calibration: Calibration, shift: Shift | None, *, student_ms: float, teacher_ms: float
) -> Expectation:
    """`rows` are the gate split's, scored at the calibration's temperature; the times are of one row of each model."""
    score = score_pair(rows, calibration.threshold)
    curve = thinned(cost_curve(pair_curve(rows, CONFIDENCE), student_ms, teacher_ms))
    # Without a threshold the student is not asked before the teacher.
    asked = calibration.threshold is not None
    cost_ms = expected_cost_ms(student_ms, teacher_ms, score.deferral) if asked else teacher_ms
    return Expectation(
        rows=score.rows,
        deferral=score.deferral,
        deferral_interval=score.deferral_interval,
        accuracy=score.accuracy,
        harm=score.harm,
        student_ms=student_ms,
        teacher_ms=teacher_ms,
        cost_ms=cost_ms,
        curve=tuple(ExpectedPoint(p.threshold, p.deferral, p.accuracy, p.cost_ms) for p in curve),
        shifted=tuple(
            ExpectedShift(one.corruption, one.severity, one.score.deferral, one.score.accuracy, one.score.harm)
            for one in (() if shift is None else shift.shifted)
        ),
    )
