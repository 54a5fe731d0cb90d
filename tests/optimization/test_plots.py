import re
from dataclasses import replace

import numpy as np
import pytest

from optimization import plots
from optimization.cascade.calibration import Calibration, calibrate
from optimization.cascade.expectation import expect
from optimization.cascade.rows import Rows, score_pair
from optimization.cascade.shift import Shift, Shifted
from optimization.comparison import Comparison, PairRow, VariantRow
from optimization.gate import Check, Verdict
from optimization.measure.host import Load, describe_host

TEACHER = VariantRow("teacher-fp32", 0.98, 0.96, 0.99, 3_400_000, 4.0, 5.0, 20.0, 1.0, 1.0, 1.0)
STUDENT = VariantRow("student-fp32", 0.97, 0.95, 0.98, 330_000, 0.3, 0.6, 1.1, 13.0, 12.0, 14.0)
INT8 = VariantRow("student-int8", 0.96, 0.94, 0.98, 90_000, 3.9, 4.0, 19.0, 1.02, 0.97, 1.08)
ROWS = (TEACHER, STUDENT, INT8)
PAIR = PairRow("student-fp32", 0.975, 0.2, 0.004, 1.1, (0.16, 0.24))
COMPARISON = Comparison(ROWS, PAIR, 400, describe_host(1, ("numpy",)), Load(0.1, 0.02, 0.0))


def _calibration(rows: int = 500) -> Calibration:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, rows)
    teacher = np.eye(4)[labels] * 6 + generator.normal(size=(rows, 4))
    student = np.eye(4)[labels] * 4 + generator.normal(size=(rows, 4)) * 1.5
    return calibrate(student, teacher, labels, temperature_logits_MC=student, temperature_labels_M=labels)


def _verdict(passed: bool) -> Verdict:
    return Verdict((Check("non_inferior", passed, -0.002, -0.01, "The student scores -0.10 points"),))


def test_scatter_names_each_variant_with_its_figures() -> None:
    figure = plots.accuracy_latency_scatter(ROWS)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "teacher-fp32\n98.00%, 4 ms, 3.4 MB"
    assert names[1].startswith("student-fp32\n97.00%, 0.3 ms, 330 kB")
    assert figure.axes[0].get_xscale() == "log"
    assert plots.accuracy_latency_scatter(ROWS[::2]).axes[0].get_xscale() == "linear"
    with pytest.raises(ValueError, match="no variants"):
        plots.accuracy_latency_scatter([])


def test_cascade_curve_marks_the_chosen_threshold() -> None:
    calibration = _calibration()
    assert calibration.threshold is not None
    accuracy, harm = plots.cascade_curve(calibration).axes
    labels = accuracy.get_legend_handles_labels()[1]
    assert f"threshold {calibration.threshold:.4g}: {calibration.expected_deferral:.1%} deferred" in labels
    assert "limit, 1.0%" in harm.get_legend_handles_labels()[1]
    assert accuracy.get_xlim() == (0, 1)


def test_cascade_curve_without_a_threshold_says_so() -> None:
    calibration = _calibration(rows=20)
    assert calibration.threshold is None
    accuracy, _ = plots.cascade_curve(calibration).axes
    assert "no threshold" in accuracy.get_title(loc="left")
    assert not any("deferred" in label for label in accuracy.get_legend_handles_labels()[1])


def test_table_claims_no_speedup_whose_interval_includes_one() -> None:
    table = plots.comparison_table_html([*ROWS, replace(INT8, speedup=0.5, speedup_low=0.4, speedup_high=0.6)])
    assert re.findall(r"<td(?: class=\"(\w+)\")?>([^<]*)</td></tr>", table) == [
        ("", "reference"),
        ("good", "13x (12 to 14)"),
        ("", "none shown (0.97 to 1.08)"),
        ("bad", "0.5x (0.4 to 0.6)"),
    ]


def test_report_is_one_file_with_verdicts_guarantee_and_machine() -> None:
    calibration = _calibration()
    figures = {"cascade": plots.cascade_curve(calibration)}
    verdicts = {"student-fp32": _verdict(True), "student-int8": _verdict(False), "release": _verdict(True)}
    rows = Rows(np.linspace(0.3, 1.0, 40), np.ones(40, np.bool_), np.ones(40, np.bool_))
    shift = Shift(score_pair(rows, 0.9), (Shifted("fog", 3, score_pair(rows, 0.9)),), 0.01)
    expected = expect(rows, calibration, shift, student_ms=0.3, teacher_ms=4.0)
    page = plots.build_report("digits", COMPARISON, calibration, verdicts, figures, expected, shift)
    assert "on 40 gate rows), which costs" in page
    assert "The guarantee does not hold under a shift" in page
    labels = plots.cascade_cost(expected, COMPARISON).axes[0].get_legend_handles_labels()[1]
    assert "teacher-fp32\n98.00%, 4 ms" in labels
    assert any(label.startswith(f"pair, expected\n{expected.accuracy:.2%}") for label in labels)
    assert calibration.guarantee.statement in page
    assert "The student scores -0.10 points" in page
    assert f"numpy {np.__version__}" in page
    assert "10.3x smaller" in page
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'(?:src|href)="([^#][^"]*)', page))
    # The variant that is not served failed its gate: that does not fail the build.
    assert "<span>Verdict</span><b>passed</b>" in page
    failed = {**verdicts, "release": _verdict(False)}
    page = plots.build_report("digits", COMPARISON, calibration, failed, figures, expected, shift)
    assert "<span>Verdict</span><b>failed</b>" in page
