"""Calibration: when a student may answer for its teacher, with the guarantee that the rows allow.

A row is harmed when the student answers it, wrongly, and the teacher would have been right. The student
answers where its confidence, the largest softmax(logits / temperature), reaches the threshold; raising
the threshold can therefore only lower harm.

The temperature must come from other rows than the threshold (here: the val split against the calibration
split). Fitted on the same rows it would carry their labels into the confidences, and neither guarantee
would hold. For the same reason nothing of the student may be made from the calibration rows.

Shape suffixes: N rows, M rows that fit the temperature, C classes, T thresholds.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimization.cascade.bounds import clopper_pearson_upper, rows_needed
from optimization.cascade.rows import Rows
from optimization.release import Guarantee, GuaranteeKind
from training.encoding import Array
from training.evaluation.temperature import fit_temperature


@dataclass(frozen=True)
class CurvePoint:
    """One threshold on some rows; `harm_upper` is the exact one-sided bound of its harm."""

    threshold: float
    deferral: float
    accuracy: float
    harm: float
    harm_upper: float


@dataclass(frozen=True)
class Calibration:
    """A Release's temperature, threshold and guarantee; deferral and curve are of the calibration rows.

    Without a threshold the teacher answers everything, and `expected_deferral` is 1.
    """

    temperature: float
    threshold: float | None
    guarantee: Guarantee
    expected_deferral: float
    student_accuracy: float
    teacher_accuracy: float
    curve: tuple[CurvePoint, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(
    student_logits_NC: Array,
    teacher_logits_NC: Array,
    labels_N: Array,
    *,
    temperature_logits_MC: Array,
    temperature_labels_M: Array,
    max_harm: float = 0.01,
    confidence: float = 0.95,
) -> Calibration:
    """The lowest threshold whose harm is at most `max_harm`, by the strongest guarantee that N rows allow.

    First "high_probability": thresholds of a fixed grid are tested from the strictest downwards, each by
    the exact binomial bound of its harm, until one fails (fixed-sequence testing: Angelopoulos et al.,
    "Learn then Test", 2021). With probability `confidence` over calibrations the harm is then at most
    `max_harm`.

    Where not even the strictest passes: "mean", the lowest threshold with (harmed + 1) / (N + 1) <=
    `max_harm` (conformal risk control: Angelopoulos et al., 2022). Harm is then at most `max_harm` on
    average over calibrations. Trying the stronger one first does not spoil that: whenever it succeeds, its
    threshold is at least as high (at confidence >= 0.8 its bound lies above (harmed + 1) / (N + 1)).

    Else "none", and no threshold. `temperature_logits_MC` are the student's on other rows.
    """
    temperature = fit_temperature(temperature_logits_MC, temperature_labels_M)
    rows = Rows.score(student_logits_NC, teacher_logits_NC, labels_N, temperature)
    threshold, guarantee = certify(rows, max_harm, confidence)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        guarantee=guarantee,
        expected_deferral=float(1 - rows.accepted(threshold).mean()),
        student_accuracy=float(rows.student_correct.mean()),
        teacher_accuracy=float(rows.teacher_correct.mean()),
        curve=pair_curve(rows, confidence),
    )


def certify(rows: Rows, max_harm: float, confidence: float) -> tuple[float | None, Guarantee]:
    """The threshold and its guarantee, see `calibrate`, for rows whose temperature they did not choose."""
    if not 0 < max_harm < 1:
        raise ValueError(f"max_harm is {max_harm}: the share of rows that may be harmed lies between 0 and 1")
    if not 0.8 <= confidence < 1:
        raise ValueError(f"confidence is {confidence}: it must be at least 0.8 and below 1")
    thresholds_T = threshold_grid()
    harmed_T = _counts_at_or_above(rows.confidence[rows.harmful], thresholds_T)
    upper_T = clopper_pearson_upper(harmed_T, len(rows), confidence)
    chosen, kind = _choose(harmed_T, upper_T, len(rows), max_harm)
    threshold = None if chosen is None else float(thresholds_T[chosen])
    guarantee = Guarantee(
        kind=kind,
        max_harm=max_harm,
        confidence=confidence if kind == "high_probability" else None,
        samples=len(rows),
        statement=_statement(kind, rows, threshold, max_harm, confidence),
    )
    return threshold, guarantee


def threshold_grid() -> NDArray[np.float64]:
    """The thresholds that are tested, from 1 down to 0; fixed, so that no data has chosen them.

    Dense near 1, where a trained student's confidences crowd.
    """
    near_one = 1 - np.geomspace(1e-6, 1e-2, 81)
    rest = np.linspace(0.985, 0.0, 198)
    return np.round(np.concatenate([[1.0], near_one, rest]), 7)


def _choose(harmed_T: Array, upper_T: Array, rows: int, max_harm: float) -> tuple[int | None, GuaranteeKind]:
    """Index of the threshold and kind of the guarantee; `harmed_T` never falls along the sequence."""
    tests: tuple[tuple[GuaranteeKind, Array], ...] = (
        ("high_probability", upper_T <= max_harm),
        ("mean", harmed_T + 1 <= max_harm * (rows + 1) + 1e-9),
    )
    for kind, passed_T in tests:
        steps = int(np.argmin(passed_T)) if not passed_T.all() else len(passed_T)
        if steps:
            return steps - 1, kind
    return None, "none"


def pair_curve(rows: Rows, confidence: float) -> tuple[CurvePoint, ...]:
    """What the pair does on `rows` at every threshold of the grid, the strictest first."""
    total = len(rows)
    thresholds_T = threshold_grid()
    accepted_T = _counts_at_or_above(rows.confidence, thresholds_T)
    harmed_T = _counts_at_or_above(rows.confidence[rows.harmful], thresholds_T)
    upper_T = clopper_pearson_upper(harmed_T, total, confidence)
    student_right_T = _counts_at_or_above(rows.confidence[rows.student_correct], thresholds_T)
    teacher_right_T = rows.teacher_correct.sum() - _counts_at_or_above(
        rows.confidence[rows.teacher_correct], thresholds_T
    )
    return tuple(
        CurvePoint(
            threshold=float(thresholds_T[i]),
            deferral=float(1 - accepted_T[i] / total),
            accuracy=float((student_right_T[i] + teacher_right_T[i]) / total),
            harm=float(harmed_T[i] / total),
            harm_upper=float(upper_T[i]),
        )
        for i in range(len(thresholds_T))
    )


def _counts_at_or_above(values: Array, thresholds_T: Array) -> NDArray[np.int64]:
    counts_T: NDArray[np.int64] = len(values) - np.searchsorted(np.sort(values), thresholds_T, side="left")
    return counts_T


def _statement(kind: GuaranteeKind, rows: Rows, threshold: float | None, max_harm: float, confidence: float) -> str:
    strictest = 1.0 if threshold is None else threshold
    harmed = int((rows.accepted(strictest) & rows.harmful).sum())
    seen = f"{harmed} of {len(rows)} calibration rows were harmed at threshold {strictest:.7g}"
    promise = f"at most {max_harm:.2%} of rows are answered wrong by the student where the teacher is right"
    if kind == "high_probability":
        return f"With {confidence:.0%} confidence in this calibration, {promise}: {seen}."
    needed = rows_needed(max_harm, confidence)
    if len(rows) < needed:
        why = f"{confidence:.0%} confidence in this one calibration needs at least {needed} rows, there are {len(rows)}"
    else:
        at_one = int((rows.accepted(1.0) & rows.harmful).sum())
        bound = float(clopper_pearson_upper(np.array(at_one), len(rows), confidence))
        why = (
            f"{confidence:.0%} confidence in this one calibration cannot be had from {len(rows)} rows of which "
            f"{at_one} are harmed even at threshold 1, which allows harm up to {bound:.2%}"
        )
    if kind == "mean":
        return f"On average over calibrations, {promise}: {seen}; {why}."
    floor = math.ceil(1 / max_harm - 1 - 1e-9)
    short = f"a promise on average needs at least {floor} rows" if len(rows) < floor else seen
    return f"No threshold keeps harm at {max_harm:.2%}, so the teacher answers every row: {short}; {why}."
