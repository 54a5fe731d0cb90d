import json
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from optimization.cascade.bounds import clopper_pearson_lower, clopper_pearson_upper, rows_needed
from optimization.cascade.calibration import Calibration, calibrate, certify, threshold_grid
from optimization.cascade.rows import Rows
from training.encoding import Array, softmax
from training.evaluation.temperature import fit_temperature

CLASSES = 4
MAX_HARM = 0.02


def _population(rows: int, seed: int, sharpness: float = 2.2) -> tuple[Array, Array, NDArray[np.int64]]:
    """Student logits, teacher logits and labels: a good teacher, a student that is worse and overconfident."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, rows)
    truth = np.eye(CLASSES)[labels]
    hardness = generator.gamma(2.0, 0.8, (rows, 1))
    teacher = 6 * truth + generator.normal(size=(rows, CLASSES)) * (0.6 + hardness)
    student = sharpness * (3 * truth + generator.normal(size=(rows, CLASSES)) * (0.3 + hardness))
    return student.astype(np.float32), teacher.astype(np.float32), labels


def _calibrate(
    student: Array, teacher: Array, labels: Array, max_harm: float = MAX_HARM, confidence: float = 0.95
) -> Calibration:
    """With a temperature near 1: 3 of 4 rows are of the class that gets three quarters of the probability."""
    return calibrate(
        student,
        teacher,
        labels,
        temperature_logits_MC=np.log(np.tile([0.75, 0.15, 0.05, 0.05], (20, 1))),
        temperature_labels_M=np.repeat(np.arange(4), [15, 3, 1, 1]),
        max_harm=max_harm,
        confidence=confidence,
    )


def _resampled_harms(rows: int, resamples: int, max_harm: float) -> tuple[NDArray[np.float64], set[str]]:
    """True harm of the threshold from each of many calibrations, and the kinds of guarantee they gave."""
    population = Rows.score(*_population(40_000, seed=1), temperature=1.0)
    generator = np.random.default_rng(2)
    harms: list[float] = []
    kinds: set[str] = set()
    for _ in range(resamples):
        drawn = generator.integers(0, len(population), rows)
        sample = Rows(*(column[drawn] for column in astuple(population)))
        threshold, guarantee = certify(sample, max_harm, 0.95)
        harms.append(float((population.accepted(threshold) & population.harmful).mean()))
        kinds.add(guarantee.kind)
    return np.array(harms), kinds


def test_high_probability_bound_holds_at_its_level() -> None:
    harms, kinds = _resampled_harms(rows=800, resamples=400, max_harm=MAX_HARM)
    assert kinds == {"high_probability"}
    # 5 % may exceed the bound; 400 draws leave it at 8 % with probability below 0.5 %.
    assert (harms > MAX_HARM).mean() <= 0.08
    assert harms.mean() > MAX_HARM / 4, "a bound that is never approached defers rows for nothing"


def test_mean_bound_holds_on_average_where_rows_are_few() -> None:
    harms, kinds = _resampled_harms(rows=100, resamples=500, max_harm=MAX_HARM)
    assert kinds == {"mean"}
    standard_error = harms.std() / np.sqrt(len(harms))
    assert harms.mean() <= MAX_HARM + 2.6 * standard_error
    assert (harms > MAX_HARM).mean() > 0.1, "this is the weaker promise: single calibrations do exceed it"


def test_harm_and_acceptance_are_monotone_in_the_threshold() -> None:
    found = _calibrate(*_population(1000, seed=3))
    points = found.curve
    assert all(a.threshold > b.threshold for a, b in pairwise(points))
    assert all(a.harm <= b.harm and a.deferral >= b.deferral for a, b in pairwise(points))
    assert all(point.harm <= point.harm_upper for point in points)
    assert points[-1].deferral == 0
    assert points[-1].accuracy == pytest.approx(found.student_accuracy)


def test_curve_agrees_with_a_direct_count() -> None:
    student, teacher, labels = _population(700, seed=4)
    found = _calibrate(student, teacher, labels)
    confidence = softmax(student, found.temperature).max(axis=1)
    for point in found.curve[:: len(found.curve) // 7]:
        accepted = confidence >= point.threshold
        answered = np.where(accepted, student.argmax(axis=1), teacher.argmax(axis=1))
        harmed = accepted & (student.argmax(axis=1) != labels) & (teacher.argmax(axis=1) == labels)
        assert point.deferral == pytest.approx(1 - accepted.mean())
        assert point.accuracy == pytest.approx((answered == labels).mean())
        assert point.harm == pytest.approx(harmed.mean())


def test_the_lowest_threshold_that_passes_is_taken() -> None:
    found = _calibrate(*_population(1000, seed=5))
    passing = [point for point in found.curve if point.harm_upper <= MAX_HARM]
    assert found.threshold == passing[-1].threshold
    assert found.expected_deferral == pytest.approx(passing[-1].deferral)
    assert 0.05 < found.expected_deferral < 0.95
    assert "With 95% confidence in this calibration, at most 2.00% of rows" in found.guarantee.statement
    assert f"of 1000 calibration rows were harmed at threshold {found.threshold:.7g}" in found.guarantee.statement


def test_a_perfect_student_answers_everything() -> None:
    labels = np.arange(400) % CLASSES
    logits = np.eye(CLASSES)[labels] * 3
    found = _calibrate(logits, logits, labels)
    assert found.threshold == 0.0
    assert found.expected_deferral == 0.0
    assert found.guarantee.kind == "high_probability"
    assert found.guarantee.confidence == 0.95


def test_a_hopeless_and_certain_student_answers_nothing() -> None:
    labels = np.arange(400) % CLASSES
    right = np.eye(CLASSES)[labels] * 5000.0
    found = _calibrate(np.roll(right, 1, axis=1), right, labels)
    assert found.threshold is None
    assert found.guarantee.kind == "none"
    assert found.expected_deferral == 1.0
    assert "400 of 400 calibration rows were harmed at threshold 1;" in found.guarantee.statement
    assert "harm up to 100.00%" in found.guarantee.statement


def test_a_hopeless_but_unsure_student_is_deferred_entirely() -> None:
    labels = np.arange(400) % CLASSES
    right = np.eye(CLASSES)[labels]
    found = _calibrate(np.roll(right, 1, axis=1), right, labels)
    assert found.threshold is not None
    assert found.expected_deferral == 1.0


def test_three_rows_promise_nothing_and_say_what_is_missing() -> None:
    found = _calibrate(*_population(3, seed=6), max_harm=0.01)
    assert (found.threshold, found.guarantee.kind) == (None, "none")
    assert found.guarantee.samples == 3
    assert "a promise on average needs at least 99 rows" in found.guarantee.statement
    assert "needs at least 299 rows, there are 3" in found.guarantee.statement


def test_the_weaker_guarantee_says_why_and_what_the_stronger_needs() -> None:
    labels = np.arange(98) % CLASSES
    logits = np.eye(CLASSES)[labels] * 3
    assert _calibrate(logits, logits, labels, max_harm=0.01).guarantee.kind == "none"
    labels = np.arange(99) % CLASSES
    logits = np.eye(CLASSES)[labels] * 3
    found = _calibrate(logits, logits, labels, max_harm=0.01)
    assert found.guarantee.kind == "mean"
    assert found.guarantee.confidence is None
    assert found.guarantee.statement == (
        "On average over calibrations, at most 1.00% of rows are answered wrong by the student where the teacher is "
        "right: 0 of 99 calibration rows were harmed at threshold 0; 95% confidence in this one calibration needs at "
        "least 299 rows, there are 99."
    )


@pytest.mark.parametrize(("rows", "kind"), [(298, "mean"), (299, "high_probability")])
def test_the_stronger_guarantee_begins_where_its_formula_says(rows: int, kind: str) -> None:
    assert rows_needed(0.01, 0.95) == 299
    labels = np.arange(rows) % CLASSES
    logits = np.eye(CLASSES)[labels] * 3
    assert _calibrate(logits, logits, labels, max_harm=0.01).guarantee.kind == kind


def test_equal_confidences_are_accepted_or_deferred_together() -> None:
    labels = np.arange(500) % CLASSES
    teacher = np.eye(CLASSES)[labels] * 3
    student = teacher.copy()
    student[:50] = np.roll(student[:50], 1, axis=1)
    found = _calibrate(student, teacher, labels)
    assert found.threshold is not None
    assert found.threshold > softmax(student, found.temperature).max()
    assert found.expected_deferral == 1.0


def test_the_temperature_is_fitted_on_the_rows_passed_for_it() -> None:
    student, teacher, labels = _population(300, seed=10)
    found = calibrate(
        student, teacher, labels, temperature_logits_MC=student[:200] * 5, temperature_labels_M=labels[:200]
    )
    assert found.temperature == pytest.approx(fit_temperature(student[:200] * 5, labels[:200]))
    hotter = Rows.score(student, teacher, labels, 2 * found.temperature)
    assert (hotter.confidence < Rows.score(student, teacher, labels, found.temperature).confidence).all()


def test_a_lower_harm_defers_more() -> None:
    rows = _population(3000, seed=7)
    deferrals = [_calibrate(*rows, max_harm=harm).expected_deferral for harm in (0.005, 0.01, 0.03)]
    assert deferrals[0] > deferrals[1] > deferrals[2]


def test_the_grid_is_fixed_descending_and_within_a_release_s_range() -> None:
    grid = threshold_grid()
    assert grid[0] == 1.0 and grid[-1] == 0.0
    assert (np.diff(grid) < 0).all()


def test_binomial_bounds_are_exact() -> None:
    assert clopper_pearson_upper(np.array([0]), 299, 0.95)[0] == pytest.approx(1 - 0.05 ** (1 / 299))
    assert clopper_pearson_upper(np.array([7]), 7, 0.95)[0] == 1.0
    assert clopper_pearson_lower(0, 10, 0.95) == 0.0
    assert clopper_pearson_lower(10, 10, 0.95) == pytest.approx(0.05**0.1)


def test_calibration_is_json() -> None:
    data = json.loads(json.dumps(_calibrate(*_population(300, seed=9)).to_json()))
    assert {"temperature", "threshold", "guarantee", "curve"} <= data.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_harm": 0.0}, "max_harm is 0.0"),
        ({"confidence": 0.5}, "confidence is 0.5"),
        ({"teacher": np.zeros((5, 3))}, "a pair must answer the same"),
        ({"student": np.full((5, 4), np.nan)}, "5 of 5 rows of logits hold NaN"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"student": np.zeros((5, 4)), "teacher": np.zeros((5, 4)), "labels": np.zeros(5, dtype=np.int64)}
    with pytest.raises(ValueError, match=message):
        _calibrate(**{**arguments, **change})  # type: ignore[arg-type]
