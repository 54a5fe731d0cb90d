import numpy as np
import pytest

from training.evaluation.coverage import draw_coverage, risk_coverage

# Confidences fall from row to row; the fourth and the last of ten are wrong.
SURE = np.log(np.linspace(0.99, 0.6, 10))
UNSURE = np.log(1 - np.linspace(0.99, 0.6, 10))
LABELS = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 1])


def test_the_curve_counts_errors_among_the_surest_rows() -> None:
    shuffled = np.random.default_rng(0).permutation(10)
    found = risk_coverage(np.stack([SURE, UNSURE], axis=1)[shuffled], LABELS[shuffled])
    coverage, error = found.curve
    assert coverage == pytest.approx(np.arange(1, 11) / 10)
    assert error == pytest.approx([0, 0, 0, 1 / 4, 1 / 5, 1 / 6, 1 / 7, 1 / 8, 1 / 9, 2 / 10])
    assert found.aurc == pytest.approx(np.mean(error))
    assert found.aurc_random == pytest.approx(0.2)
    assert found.aurc_best == pytest.approx((1 / 9 + 2 / 10) / 10)
    assert found.at(0.8).accuracy == pytest.approx(7 / 8)
    assert found.at(0.8).least_confidence == pytest.approx(np.exp(SURE[7]))
    assert found.at(1.0).interval[0] < 0.8 < found.at(1.0).interval[1]


def test_one_row_has_every_coverage() -> None:
    found = risk_coverage(np.array([[2.0, 0.0]]), np.array([0]))
    assert {kept.accuracy for kept in found.kept} == {1.0}
    draw_coverage(found).canvas.draw()
