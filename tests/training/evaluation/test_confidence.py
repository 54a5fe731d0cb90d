import numpy as np
import pytest

from training.encoding import Array
from training.evaluation.confidence import check_confidence
from training.evaluation.scores import reliability_bins


def _answers(rows: int, overconfidence: float = 0.0, seed: int = 0) -> tuple[Array, Array]:
    """Two classes; the answer's confidence is spread over 0.5..1, and it is right so often less `overconfidence`."""
    generator = np.random.default_rng(seed)
    confidence = 0.5 + 0.49 * generator.random(rows)
    right = generator.random(rows) < confidence - overconfidence
    logits = np.stack([np.log(confidence / (1 - confidence)), np.zeros(rows)], axis=1)
    return logits, np.where(right, 0, 1)


def test_a_calibrated_model_stays_below_what_chance_shows_nineteen_times_in_twenty() -> None:
    off = [check_confidence(*_answers(300, seed=seed)).is_off for seed in range(60)]
    assert 0 <= sum(off) <= 8


def test_an_overconfident_model_is_caught_and_its_gap_measured() -> None:
    found = check_confidence(*_answers(2000, overconfidence=0.1))
    assert found.is_off
    assert found.gap_interval.low < 0.1 < found.gap_interval.high
    assert found.gap > 0
    assert found.temperature is None and found.ece_scaled is None


def test_the_temperature_is_judged_on_the_rows_given() -> None:
    logits, labels = _answers(2000)
    found = check_confidence(logits * 3, labels, temperature=3.0)
    assert found.ece_scaled == pytest.approx(reliability_bins(logits, labels).ece)
    assert found.ece_scaled is not None and found.ece_scaled < found.ece


def test_a_single_row_of_complete_certainty_is_no_error() -> None:
    found = check_confidence(np.array([[1000.0, 0.0]]), np.array([0]))
    assert (found.gap, found.ece, found.ece_by_chance, found.is_off) == (0.0, 0.0, 0.0, False)
