import pytest

from optimization.cascade.calibration import CurvePoint
from optimization.cascade.cost import break_even_deferral, cost_curve, expected_cost_ms, thinned

POINTS = tuple(CurvePoint(1 - d, d, 0.9 + d / 20, 0.02 * (1 - d), 0.03) for d in (1.0, 0.99, 0.6, 0.58, 0.2, 0.01, 0.0))


def test_a_row_costs_the_student_and_its_share_of_the_teacher() -> None:
    assert expected_cost_ms(0.2, 0.5, 0.1) == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"student 0\.0 ms"):
        expected_cost_ms(0.0, 0.5, 0.1)
    with pytest.raises(ValueError, match=r"deferral 1\.2"):
        expected_cost_ms(0.2, 0.5, 1.2)


def test_the_curve_keeps_its_points_and_adds_their_cost() -> None:
    curve = cost_curve(POINTS, 0.2, 0.5)
    assert [point.threshold for point in curve] == [point.threshold for point in POINTS]
    assert curve[0].cost_ms == pytest.approx(0.7)
    assert curve[-1].cost_ms == pytest.approx(0.2)
    assert (curve[2].accuracy, curve[2].harm) == (POINTS[2].accuracy, POINTS[2].harm)


def test_beyond_the_break_even_the_teacher_alone_is_cheaper() -> None:
    share = break_even_deferral(0.2, 0.5)
    assert share == pytest.approx(0.6)
    assert expected_cost_ms(0.2, 0.5, share) == pytest.approx(0.5)
    assert break_even_deferral(0.5, 0.2) == 0.0


def test_a_thinned_curve_keeps_both_ends() -> None:
    kept = [point.deferral for point in thinned(cost_curve(POINTS, 0.2, 0.5), step=0.1)]
    assert kept == [1.0, 0.6, 0.2, 0.01, 0.0]
    assert [point.deferral for point in thinned(cost_curve(POINTS[:1], 0.2, 0.5))] == [1.0]
