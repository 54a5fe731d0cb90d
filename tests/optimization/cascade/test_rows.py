import numpy as np
import pytest

from optimization.cascade.rows import Rows, confidence, pair_correct, score_pair
from training.encoding import softmax


def _rows() -> Rows:
    """Ten rows, the surest first; the student errs on the second and the last, the teacher on the third."""
    student = np.ones(10, bool)
    student[[1, 9]] = False
    teacher = np.ones(10, bool)
    teacher[2] = False
    return Rows(np.linspace(0.95, 0.5, 10), student, teacher)


def test_a_pair_is_scored_as_it_answers() -> None:
    score = score_pair(_rows(), 0.6)
    assert (score.rows, score.threshold) == (10, 0.6)
    assert score.deferral == pytest.approx(0.2)
    # Accepted are the first eight, of which the second is harmed; the teacher saves the last.
    assert score.harm == pytest.approx(0.1)
    assert score.accuracy == pytest.approx(0.9)
    assert (score.student_accuracy, score.teacher_accuracy) == (0.8, 0.9)
    np.testing.assert_array_equal(pair_correct(_rows(), 0.6), [1, 0, 1, 1, 1, 1, 1, 1, 1, 1])


def test_shares_have_their_exact_intervals() -> None:
    score = score_pair(_rows(), 0.6)
    assert score.deferral_interval == pytest.approx((0.02521073, 0.55609546))  # R: binom.test(2, 10)
    assert score.harm_interval == pytest.approx((0.002528579, 0.445016117))  # R: binom.test(1, 10)
    assert score.to_json()["deferral_interval"] == score.deferral_interval


def test_without_a_threshold_all_is_deferred_and_nothing_harmed() -> None:
    score = score_pair(_rows(), None)
    assert (score.deferral, score.harm, score.accuracy) == (1.0, 0.0, 0.9)
    with pytest.raises(ValueError, match="no rows"):
        score_pair(_rows().take(np.array([], dtype=int)), 0.5)


def test_rows_may_be_picked_by_number_or_by_mask() -> None:
    rows = _rows()
    mask = np.arange(10) % 2 == 0
    for chosen in (mask, np.flatnonzero(mask)):
        taken = rows.take(chosen)
        assert len(taken) == 5
        np.testing.assert_array_equal(taken.harmful, rows.harmful[mask])


def test_confidence_is_the_largest_softmax_to_the_bit() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32) * 7
    for temperature in (0.4, 1.0, 1.7):
        np.testing.assert_array_equal(confidence(logits, temperature), softmax(logits, temperature).max(axis=1))
