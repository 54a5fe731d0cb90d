"""Pairing: what a Release says of a teacher and a student, from the splits that neither was made from."""

from dataclasses import dataclass

from optimization.cascade.calibration import Calibration, calibrate
from optimization.cascade.expectation import expect
from optimization.cascade.rows import Rows
from optimization.cascade.shift import Shift, measure_shift
from optimization.gate import Verdict, gate_release
from optimization.release import Expectation
from optimization.runners.contract import Runner
from optimization.variants import threshold_split
from training.encoding import Array
from training.evaluation.scores import predict_in_batches
from training.task import Task

MAX_HARM = 0.01
# How a pair does on corrupted rows is looked at, and nothing is chosen by it: few rows and one severity are enough.
SHIFT_ROWS, SHIFT_SEVERITIES = 200, (3,)


@dataclass(frozen=True)
class Pairing:
    """A calibrated pair, how it did on the gate rows, and under a shift."""

    calibration: Calibration
    verdict: Verdict
    shift: Shift
    rows: Rows

    def expected(self, student_ms: float, teacher_ms: float) -> Expectation:
        """Of a server, where a row takes so long."""
        return expect(self.rows, self.calibration, self.shift, student_ms=student_ms, teacher_ms=teacher_ms)


def pair_up(
    teacher: Runner, student: Runner, task: Task, teacher_gate_logits_NC: Array, student_gate_logits_NC: Array
) -> Pairing:
    """Calibrates on the threshold rows, judges on the gate rows, whose logits are given, and looks at a shift.

    Shape suffixes: N rows, C classes.
    """
    fresh, val, gate = threshold_split(task), task.splits["val"], task.splits["gate"]
    calibration = calibrate(
        predict_in_batches(student, fresh.inputs),
        predict_in_batches(teacher, fresh.inputs),
        fresh.labels,
        temperature_logits_MC=predict_in_batches(student, val.inputs),
        temperature_labels_M=val.labels,
        max_harm=MAX_HARM,
    )
    temperature, threshold = calibration.temperature, calibration.threshold
    verdict = gate_release(
        gate.labels,
        teacher_gate_logits_NC,
        student_gate_logits_NC,
        temperature=temperature,
        threshold=threshold,
        margin=task.margin,
        max_harm=MAX_HARM,
    )
    shift = measure_shift(
        student,
        teacher,
        task,
        gate,
        temperature=temperature,
        threshold=threshold,
        max_harm=MAX_HARM,
        rows=SHIFT_ROWS,
        severities=SHIFT_SEVERITIES,
    )
    rows = Rows.score(student_gate_logits_NC, teacher_gate_logits_NC, gate.labels, temperature)
    return Pairing(calibration, verdict, shift, rows)
