import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from training.evaluation.bootstrap import bootstrap, macro_auc_of, macro_f1_of, mean_of

CLASSES = 4


def _answers(rows: int = 60) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Labels, answers and probabilities with ties, of CLASSES classes."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, CLASSES, rows)
    raw = np.round(generator.random((rows, CLASSES)) + 0.7 * np.eye(CLASSES)[labels], 1)
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    return labels, raw.argmax(axis=1), np.round(probabilities, 2)


def _draws(rows: int, resamples: int = 5) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, rows, (resamples, rows))


def _counts(drawn: NDArray[np.int64], rows: int) -> NDArray[np.float64]:
    return np.stack([np.bincount(one, minlength=rows) for one in drawn]).astype(np.float64)


def test_macro_f1_by_counts_is_that_of_the_rows_drawn() -> None:
    labels, answers, _ = _answers()
    drawn = _draws(len(labels))
    found = macro_f1_of(answers, labels, CLASSES)(_counts(drawn, len(labels)))
    by_hand = [f1_score(labels[one], answers[one], average="macro", labels=range(CLASSES)) for one in drawn]
    assert found == pytest.approx(by_hand)


def test_macro_auc_by_counts_is_that_of_the_rows_drawn_ties_and_all() -> None:
    labels, _, probabilities = _answers()
    drawn = _draws(len(labels))
    found = macro_auc_of(probabilities, labels, range(CLASSES))(_counts(drawn, len(labels)))
    by_hand = [
        np.mean([roc_auc_score(labels[one] == c, probabilities[one, c]) for c in range(CLASSES)]) for one in drawn
    ]
    assert found == pytest.approx(by_hand)


def test_a_class_that_a_resample_lost_is_left_out_of_its_mean() -> None:
    labels, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.95, 0.05]])
    found = macro_auc_of(probabilities, labels, [0, 1])(np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]]))
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1])


def test_the_interval_of_a_mean_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        values = generator.exponential(2.0, 150)
        interval = bootstrap(mean_of(values), len(values), resamples=300, seed=trial)
        held += interval.low <= 2.0 <= interval.high
    assert 0.89 <= held / 200 <= 0.99


def test_the_interval_of_macro_f1_holds_the_truth_about_as_often_as_it_says() -> None:
    """Answers right with probability 0.8, else any other class: every class's F1 is 0.8 in the long run."""
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(150):
        labels = generator.integers(0, CLASSES, 400)
        wrong = (labels + generator.integers(1, CLASSES, 400)) % CLASSES
        answers = np.where(generator.random(400) < 0.8, labels, wrong)
        interval = bootstrap(macro_f1_of(answers, labels, CLASSES), 400, resamples=200, seed=trial)
        held += interval.low <= 0.8 <= interval.high
    assert 0.88 <= held / 150 <= 0.99


def test_the_same_seed_draws_the_same_resamples_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap(mean_of(values), 50, resamples=40)
    monkeypatch.setattr("training.evaluation.bootstrap.CHUNK_CELLS", 150)
    assert bootstrap(mean_of(values), 50, resamples=40) == whole
    assert bootstrap(mean_of(values), 50, resamples=40, seed=1) != whole


def test_one_row_and_values_that_are_never_defined_raise_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap(mean_of(np.array([0.25])), 1).low == 0.25
        assert np.isnan(bootstrap(lambda counts: np.full(len(counts), np.nan), 3).high)
    with pytest.raises(ValueError, match="0 resamples of 3 rows"):
        bootstrap(mean_of(np.ones(3)), 3, resamples=0)
