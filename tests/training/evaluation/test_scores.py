import json
import math

import numpy as np
import pytest

from training.encoding import Array
from training.evaluation.scores import clopper_pearson, evaluate, predict_in_batches, reliability_bins

NAMES = ("cat", "dog", "eel")


def _logits_of(predicted: list[int], confidence: float = 0.8, classes: int = 3) -> Array:
    """Rows whose largest softmax is `confidence`, at the class named."""
    probabilities = np.full((len(predicted), classes), (1 - confidence) / (classes - 1))
    probabilities[np.arange(len(predicted)), predicted] = confidence
    logits: Array = np.log(probabilities).astype(np.float32)
    return logits


def test_scores_agree_with_a_count_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    evaluation = evaluate(_logits_of([0, 0, 0, 1, 1, 1, 0, 2, 2, 1]), labels, NAMES)

    assert evaluation.rows == 10
    assert evaluation.accuracy == pytest.approx(0.7)
    assert evaluation.confusion == ((3, 1, 0), (1, 2, 0), (0, 1, 2))
    cat, dog, eel = evaluation.classes
    assert (cat.label, cat.support) == ("cat", 4)
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((3 / 4, 3 / 4, 3 / 4))
    assert (dog.precision, dog.recall, dog.f1) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert (eel.precision, eel.recall, eel.f1) == pytest.approx((1.0, 2 / 3, 4 / 5))
    assert evaluation.macro_f1 == pytest.approx((3 / 4 + 4 / 7 + 4 / 5) / 3)
    assert evaluation.log_loss == pytest.approx(-(7 * math.log(0.8) + 3 * math.log(0.1)) / 10, abs=1e-6)
    # Every row claims 0.8 and 0.7 of them are right.
    assert evaluation.ece == pytest.approx(0.1, abs=1e-6)


def test_top_k_and_brier_agree_with_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss, top_k_accuracy_score

    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(300, 7)), generator.integers(0, 7, 300)
    evaluation = evaluate(logits, labels, tuple("abcdefg"))
    assert [top.k for top in evaluation.top_k] == [2, 3, 5]
    for top in evaluation.top_k:
        assert top.accuracy == pytest.approx(top_k_accuracy_score(labels, logits, k=top.k))
        assert top.interval == clopper_pearson(round(300 * top.accuracy), 300)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    by_hand = ((probabilities - np.eye(7)[labels]) ** 2).sum(axis=1).mean()
    assert evaluation.brier == pytest.approx(by_hand)
    two = evaluate(logits[:, :2], labels % 2, ("a", "b"))
    second = np.exp(logits[:, 1]) / np.exp(logits[:, :2]).sum(axis=1)
    assert two.brier == pytest.approx(2 * brier_score_loss(labels % 2, second))
    assert evaluation.mean_confidence == pytest.approx(probabilities.max(axis=1).mean())
    assert evaluation.metrics()["top3_accuracy"] == evaluation.top_k[1].accuracy


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    (top,) = evaluate(np.zeros((3, 3)), np.array([0, 1, 2]), NAMES).top_k
    assert (top.k, top.accuracy) == (2, pytest.approx(2 / 3))
    assert evaluate(np.zeros((2, 2)), np.array([0, 1]), ("a", "b")).top_k == ()


def test_recall_has_its_exact_interval() -> None:
    evaluation = evaluate(_logits_of([0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 1]), NAMES)
    assert evaluation.classes[0].recall_interval == clopper_pearson(3, 4)
    assert evaluation.classes[2].recall_interval == (0.0, 1.0)


def test_a_class_that_never_occurs_scores_zero_without_a_warning() -> None:
    evaluation = evaluate(_logits_of([0, 1]), np.array([0, 1]), NAMES)
    assert evaluation.classes[2].support == 0
    assert evaluation.classes[2].f1 == 0.0
    assert evaluation.macro_recall == pytest.approx(2 / 3)


def test_calibration_error_weighs_each_bin_by_its_rows() -> None:
    logits = np.concatenate([_logits_of([0] * 30, 0.95), _logits_of([0] * 10, 0.45)])
    labels = np.array([0] * 30 + [1] * 10)
    binned = reliability_bins(logits, labels)
    assert binned.ece == pytest.approx((30 * 0.05 + 10 * 0.45) / 40, abs=1e-6)
    assert sorted(binned.counts)[-2:] == [10, 30]
    assert np.isnan(binned.accuracy[binned.counts == 0]).all()


def test_complete_certainty_falls_into_the_last_bin() -> None:
    binned = reliability_bins(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 1]))
    assert binned.counts[-1] == 2
    assert binned.ece == 0.0


def test_a_confidence_on_an_edge_falls_into_the_bin_below() -> None:
    assert list(reliability_bins(np.array([[0.0, 0.0]]), np.array([0]), bins=2).counts) == [1, 0]


def test_log_loss_stays_finite_on_a_confident_mistake() -> None:
    assert evaluate(np.array([[1000.0, 0.0]]), np.array([1]), ("a", "b")).log_loss == pytest.approx(1000.0)


@pytest.mark.parametrize("successes", [0, 1, 17, 20])
def test_exact_interval_leaves_a_fortieth_in_each_tail(successes: int) -> None:
    from scipy.stats import binom

    low, high = clopper_pearson(successes, 20)
    assert low <= successes / 20 <= high
    assert low == 0 if successes == 0 else binom.sf(successes - 1, 20, low) == pytest.approx(0.025)
    assert high == 1 if successes == 20 else binom.cdf(successes, 20, high) == pytest.approx(0.025)


def test_evaluation_is_json_and_its_metrics_are_flat_floats() -> None:
    evaluation = evaluate(_logits_of([0, 1, 2]), np.array([0, 1, 2]), NAMES)
    assert json.loads(json.dumps(evaluation.to_json()))["classes"][0]["label"] == "cat"
    metrics = evaluation.metrics()
    assert {"accuracy", "macro_f1", "ece", "log_loss"} <= metrics.keys()
    assert all(isinstance(value, float) for value in metrics.values())
    assert metrics["accuracy_low"] < metrics["accuracy"] == metrics["accuracy_high"] == 1.0


def test_batches_cover_every_row_in_order_and_keep_their_limit() -> None:
    sizes: list[int] = []

    def predict(batch: Array) -> Array:
        sizes.append(len(batch))
        return batch * 2

    inputs = np.arange(22.0).reshape(11, 2)
    assert np.array_equal(predict_in_batches(predict, inputs, batch_size=4), inputs * 2)
    assert sizes == [4, 4, 3]


def test_a_model_that_drops_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="5 inputs gave 3 rows"):
        predict_in_batches(lambda batch: batch[:1], np.zeros((5, 2)), batch_size=2)


@pytest.mark.parametrize(
    ("logits", "labels", "names", "message"),
    [
        (np.zeros((2, 3)), np.array([0]), NAMES, "do not fit"),
        (np.zeros((0, 3)), np.zeros(0, dtype=np.int64), NAMES, "do not fit"),
        (np.zeros((1, 3)), np.array([3]), NAMES, r"must lie in 0\.\.2"),
        (np.zeros((1, 3)), np.array([0.0]), NAMES, "must be integers"),
        (np.zeros((1, 3)), np.array([0]), ("a", "b"), "one name a logit"),
        (np.array([[np.nan, 0.0, 0.0]]), np.array([0]), NAMES, "1 of 1 rows of logits hold NaN"),
    ],
)
def test_what_does_not_fit_is_refused(logits: Array, labels: Array, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(logits, labels, names)
