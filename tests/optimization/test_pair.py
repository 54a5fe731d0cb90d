import numpy as np
import pytest

from optimization.cascade.rows import Rows, pair_correct
from optimization.pair import Pair
from training.encoding import Array


class _Scripted:
    """Answers each row by its number, and remembers which it was asked for."""

    def __init__(self, logits: Array) -> None:
        self.logits, self.asked = logits, []

    def __call__(self, batch: Array) -> Array:
        self.asked.append(batch[:, 0].tolist())
        return self.logits[batch[:, 0]]


@pytest.fixture
def models() -> tuple[_Scripted, _Scripted]:
    generator = np.random.default_rng(0)
    student, teacher = (generator.normal(size=(50, 4)).astype(np.float32) * 2 for _ in range(2))
    return _Scripted(student), _Scripted(teacher)


ROWS = np.arange(50)[:, None]


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_each_row_is_answered_as_the_calibration_counts_it(
    models: tuple[_Scripted, _Scripted], batch_size: int
) -> None:
    student, teacher = models
    labels = np.arange(50) % 4
    pair = Pair(student, teacher, 1.3, 0.7)
    answers = np.concatenate([pair(ROWS[start : start + batch_size]) for start in range(0, 50, batch_size)])
    rows = Rows.score(student.logits, teacher.logits, labels, 1.3)
    accepted = rows.accepted(0.7)
    assert 5 < accepted.sum() < 45
    np.testing.assert_array_equal(answers[accepted], student.logits[accepted])
    np.testing.assert_array_equal(answers[~accepted], teacher.logits[~accepted])
    np.testing.assert_array_equal(answers.argmax(axis=1) == labels, pair_correct(rows, 0.7))


def test_the_teacher_is_asked_for_the_deferred_rows_alone(models: tuple[_Scripted, _Scripted]) -> None:
    student, teacher = models
    before = student.logits.copy()
    Pair(student, teacher, 1.0, 0.7)(ROWS)
    deferred = np.flatnonzero(~Rows.score(student.logits, teacher.logits, np.zeros(50, int), 1.0).accepted(0.7))
    assert teacher.asked == [deferred.tolist()]
    Pair(student, teacher, 1.0, 0.0)(ROWS)
    assert len(teacher.asked) == 1, "a threshold of 0 defers nothing, so nobody is called for nothing"
    np.testing.assert_array_equal(student.logits, before)


def test_without_a_threshold_the_student_is_not_asked(models: tuple[_Scripted, _Scripted]) -> None:
    student, teacher = models
    answers = Pair(student, teacher, 1.0, None)(ROWS)
    np.testing.assert_array_equal(answers, teacher.logits)
    assert student.asked == []
