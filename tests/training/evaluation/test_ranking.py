import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from training.encoding import Array, softmax
from training.evaluation import ranking
from training.evaluation.ranking import CURVE_POINTS, draw_pr, draw_roc, rank


def _answers(classes: int, rows: int = 500) -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, rows)
    return np.eye(classes)[labels] * 2 + generator.normal(size=(rows, classes)), labels


def _names(classes: int) -> list[str]:
    return [f"class {i}" for i in range(classes)]


def test_areas_agree_with_scikit_learn() -> None:
    logits, labels = _answers(4)
    found = rank(logits, labels, _names(4))
    probabilities = softmax(logits)
    assert found.macro_auc == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert found.macro_average_precision == pytest.approx(average_precision_score(np.eye(4)[labels], probabilities))
    assert found.auc_interval is not None
    assert found.auc_interval.low < found.macro_auc < found.auc_interval.high
    assert not found.undefined


def test_two_classes_have_one_area() -> None:
    logits, labels = _answers(2)
    first, second = rank(logits, labels, _names(2)).classes
    assert first.auc == pytest.approx(second.auc) == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))


def test_a_class_without_rows_is_named_and_left_out_of_the_mean() -> None:
    logits, labels = _answers(3)
    held = labels != 1
    found = rank(logits[held], labels[held], _names(3))
    assert found.undefined == ("class 1",)
    assert [one.label for one in found.classes] == ["class 0", "class 2"]
    assert found.macro_auc == pytest.approx(np.mean([one.auc for one in found.classes]))


def test_rows_of_one_class_alone_have_no_curve_and_raise_nothing() -> None:
    found = rank(np.array([[1.0, 0.0]]), np.array([0]), _names(2))
    assert (found.classes, found.macro_auc, found.auc_interval) == ((), None, None)
    assert found.undefined == ("class 0", "class 1")
    json.dumps(found.to_json())


def test_more_than_can_be_resampled_gets_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = _answers(4)
    monkeypatch.setattr(ranking, "BUDGET", 4 * 500 * 200)
    fewer = rank(logits, labels, _names(4)).auc_interval
    assert fewer is not None and fewer.resamples == 200
    monkeypatch.setattr(ranking, "BUDGET", 4 * 500 * 99)
    assert rank(logits, labels, _names(4)).auc_interval is None


def test_curves_keep_their_ends_and_are_drawn() -> None:
    logits, labels = _answers(5, rows=4000)
    found = rank(logits, labels, _names(5))
    for one in found.classes:
        assert len(one.roc[0]) <= CURVE_POINTS
        assert (one.roc[0][0], one.roc[1][0], one.roc[0][-1], one.roc[1][-1]) == (0, 0, 1, 1)
        assert (one.pr[0][0], one.pr[0][-1]) == (0, 1)
    worst = min(found.classes, key=lambda one: one.auc)
    named = [text.get_text() for text in draw_roc(found).axes[0].get_legend().get_texts()]
    assert named[0] == f"{worst.label}  AUC {worst.auc:.3f}"
    assert len(draw_pr(found).axes[0].lines) == 5
