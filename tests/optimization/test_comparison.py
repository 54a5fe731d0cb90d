import json
from pathlib import Path

import numpy as np
import pytest

from optimization.cascade.calibration import Calibration, calibrate
from optimization.cascade.expectation import expect
from optimization.cascade.rows import Rows, score_pair
from optimization.cascade.shift import Shift, Shifted
from optimization.comparison import Comparison, compare
from optimization.measure.parity import Parity
from optimization.variants import Variant
from tests.tiny import ENCODING, write_tiny
from training.encoding import Array, output_spec
from training.task import SPLIT_NAMES, Split, Task


class _Scripted:
    """Answers what it was told to, by the first pixel, which numbers the row."""

    input_spec = ENCODING.input_spec
    output_spec = output_spec(ENCODING)
    device, precision = "cpu", "fp32"

    def __init__(self, logits: Array, work: int = 0) -> None:
        self._logits, self._work = logits, work

    def __call__(self, batch: Array) -> Array:
        for _ in range(self._work * len(batch)):
            np.linalg.svd(np.ones((12, 12)))
        return self._logits[batch[:, 0, 0, 0]]


ROWS = 100
LABELS = np.arange(ROWS) % 3


def _logits(right: Array, strength: Array) -> Array:
    logits = np.zeros((ROWS, 3), np.float32)
    logits[np.arange(ROWS), np.where(right, LABELS, (LABELS + 1) % 3)] = strength
    return logits


@pytest.fixture(scope="module")
def task() -> Task:
    inputs = np.zeros((ROWS, 1, 2, 2), np.uint8)
    inputs[:, 0, 0, 0] = np.arange(ROWS)
    split = Split(inputs, LABELS)
    return Task("tiny", ENCODING, dict.fromkeys(SPLIT_NAMES, split), margin=0.1)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Variant]:
    folder: Path = tmp_path_factory.mktemp("tiny")
    index = np.arange(ROWS)
    # The teacher errs on rows 90..99; the student is unsure of rows 0..29, wrong on 0..19 and, surely, on row 50.
    teacher = _logits(index < 90, np.full(ROWS, 9.0))
    student = _logits((index >= 20) & (index != 50) & (index < 95), np.where(index < 30, 0.5, 8.0))
    made = {}
    for name, logits, work in (("teacher-fp32", teacher, 12), ("student-int8", student, 1)):
        artifact = write_tiny(folder / name, name, offset=1.0)
        made[name] = Variant(artifact, _Scripted(logits, work), Parity(0.0, 0, ROWS))
    return made


@pytest.fixture(scope="module")
def calibration(task: Task, variants: dict[str, Variant]) -> Calibration:
    inputs = task.splits["calibration"].inputs
    student, teacher = (variants[name].runner(inputs) for name in ("student-int8", "teacher-fp32"))
    made = calibrate(
        student, teacher, LABELS, temperature_logits_MC=student, temperature_labels_M=LABELS, max_harm=0.05
    )
    return Calibration(**{**made.__dict__, "threshold": 0.7, "temperature": 1.0})


@pytest.fixture(scope="module")
def comparison(task: Task, variants: dict[str, Variant], calibration: Calibration) -> Comparison:
    return compare(variants, "student-int8", calibration, task, threads=1)


def test_each_variant_has_its_accuracy_size_and_latency(comparison: Comparison, variants: dict[str, Variant]) -> None:
    teacher, student = comparison.rows
    assert [row.variant for row in comparison.rows] == ["teacher-fp32", "student-int8"]
    assert teacher.accuracy == pytest.approx(0.90)
    assert student.accuracy == pytest.approx(0.74)
    assert teacher.accuracy_low < 0.90 < teacher.accuracy_high
    for row in comparison.rows:
        assert row.size_bytes == variants[row.variant].artifact.size_bytes
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.batch8_p50_ms > row.p50_ms
    assert comparison.report_rows == ROWS


def test_each_variant_has_a_measurement_of_the_gate_rows_under_its_digest(
    comparison: Comparison, variants: dict[str, Variant], task: Task
) -> None:
    assert comparison.measurements.keys() == variants.keys()
    for row in comparison.rows:
        found = comparison.measurements[row.variant]
        assert found.version == found.digest == variants[row.variant].artifact.digest
        assert (found.split, found.rows, found.data_hash) == ("gate", ROWS, task.data_hash)
        assert found.accuracy == pytest.approx(row.accuracy)  # all splits are the same rows here
        assert (found.latency.at(1).p50_ms, found.latency.at(8).p50_ms) == (row.p50_ms, row.batch8_p50_ms)
        assert found.footprint.peak_bytes > found.footprint.size_bytes
        assert found.paired is None  # these were made from nothing


def test_speed_up_is_the_teachers_latency_over_the_variants(comparison: Comparison) -> None:
    teacher, student = comparison.rows
    assert teacher.speedup == 1.0
    assert student.speedup > 2
    assert student.speedup_low <= student.speedup <= student.speedup_high


def test_the_pair_answers_by_the_threshold(comparison: Comparison) -> None:
    pair = comparison.pair
    assert pair.student == "student-int8"
    assert pair.deferral == pytest.approx(0.30)
    assert pair.deferral_interval == pytest.approx((0.2124064, 0.3998147), abs=1e-5)  # R: binom.test(30, 100)
    # The student is wrong on row 50 and the last five of those that it answers; the teacher is right on the others.
    assert pair.accuracy == pytest.approx(0.94)
    assert pair.harm == pytest.approx(0.01)
    teacher, student = comparison.rows
    assert pair.mean_ms == pytest.approx(student.p50_ms + 0.3 * teacher.p50_ms)


def test_without_a_threshold_the_teacher_answers_all(
    task: Task, variants: dict[str, Variant], calibration: Calibration
) -> None:
    unsure = Calibration(**{**calibration.__dict__, "threshold": None})
    pair = compare(variants, "student-int8", unsure, task, threads=1).pair
    assert (pair.deferral, pair.harm) == (1.0, 0.0)
    assert pair.accuracy == pytest.approx(0.90)


def test_a_versions_tags_are_its_figures(comparison: Comparison) -> None:
    tags = comparison.tags("student-int8")
    assert tags["tandem.accuracy"] == "0.74"
    assert tags.keys() == {f"tandem.{name}" for name in ("accuracy", "size_bytes", "p50_ms", "p95_ms", "speedup")}
    assert comparison.tags("student") == {}


def test_the_json_says_where_it_was_measured(comparison: Comparison) -> None:
    data = json.loads(json.dumps(comparison.to_json()))
    assert [row["variant"] for row in data["rows"]] == ["teacher-fp32", "student-int8"]
    assert data["report_rows"] == ROWS
    assert data["host"]["threads"] == 1
    assert "others_cores" in data["load"]
    assert data["host"]["libraries"]["onnxruntime"]


class _Run:
    """Keeps what is logged, as MLflow's run would."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.files: dict[str, object] = {}

    def log_metrics(self, metrics: dict[str, float]) -> None:
        self.metrics.update(metrics)

    def log_text(self, text: str, name: str) -> None:
        self.files[name] = text

    def log_figures(self, figures: dict[str, object]) -> None:
        self.files.update({f"plots/{name}.png": figure for name, figure in figures.items()})


def test_a_run_is_given_figures_tables_plots_and_page(
    comparison: Comparison, calibration: Calibration, task: Task
) -> None:
    run = _Run()
    rows = Rows.score(np.eye(3)[LABELS], np.eye(3)[LABELS], LABELS, 1.0)
    score = score_pair(rows, 0.4)
    shift = Shift(score, (Shifted("fog", 3, score),), 0.05)
    expected = expect(rows, calibration, shift, student_ms=1.0, teacher_ms=2.0)
    comparison.log(run, calibration, {}, task, expected, shift)  # type: ignore[arg-type]
    assert run.metrics["student-int8/accuracy"] == pytest.approx(0.74)
    assert run.metrics["pair/deferral"] == pytest.approx(0.3)
    assert json.loads(str(run.files["comparison.json"])) == json.loads(json.dumps(comparison.to_json()))
    assert json.loads(str(run.files["calibration.json"]))["threshold"] == 0.7
    plots = {f"plots/{name}.png" for name in ("accuracy_latency", "cascade", "cost", "shift")}
    assert {"verdicts.json", "report.html", "expected.json", "shift.json"} | plots <= run.files.keys()
    assert "The guarantee does not hold under a shift" in str(run.files["report.html"])
    assert "student-int8" in str(run.files["report.html"])
