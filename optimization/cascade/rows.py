"""Rows: what a pair's threshold needs to know of each row, and how the pair does on rows at a threshold.

Shape suffixes: N rows, C classes.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array
from training.evaluation.scores import check_logits, clopper_pearson


@dataclass(frozen=True)
class Rows:
    """What a threshold needs to know of each row."""

    confidence: NDArray[np.float64]
    student_correct: NDArray[np.bool_]
    teacher_correct: NDArray[np.bool_]

    @staticmethod
    def score(student_logits_NC: Array, teacher_logits_NC: Array, labels_N: Array, temperature: float) -> "Rows":
        """Raises ValueError where shapes, labels or values do not fit, see `check_logits`."""
        check_logits(student_logits_NC, labels_N)
        check_logits(teacher_logits_NC, labels_N)
        if student_logits_NC.shape != teacher_logits_NC.shape:
            raise ValueError(
                f"the student answers {student_logits_NC.shape[1]} classes, the teacher "
                f"{teacher_logits_NC.shape[1]}: a pair must answer the same ones"
            )
        return Rows(
            confidence=confidence(student_logits_NC, temperature),
            student_correct=student_logits_NC.argmax(axis=1) == labels_N,
            teacher_correct=teacher_logits_NC.argmax(axis=1) == labels_N,
        )

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def harmful(self) -> NDArray[np.bool_]:
        """Rows that would be harmed if the student answered them."""
        harmful: NDArray[np.bool_] = ~self.student_correct & self.teacher_correct
        return harmful

    def take(self, chosen: Array) -> "Rows":
        """The rows that an array of indices or bools [N] picks."""
        return Rows(self.confidence[chosen], self.student_correct[chosen], self.teacher_correct[chosen])

    def accepted(self, threshold: float | None) -> NDArray[np.bool_]:
        """Rows that the student answers; none without a threshold."""
        if threshold is None:
            return np.zeros(len(self), dtype=np.bool_)
        accepted: NDArray[np.bool_] = self.confidence >= threshold
        return accepted


@dataclass(frozen=True)
class PairScore:
    """A pair at one threshold on `rows` rows; each share with its exact 95 % interval (Clopper and Pearson).

    The intervals hold on rows that chose neither the threshold nor anything of the models.
    """

    threshold: float | None
    rows: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    deferral: float
    deferral_interval: tuple[float, float]
    harm: float
    harm_interval: tuple[float, float]
    student_accuracy: float
    teacher_accuracy: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def confidence(logits_NC: Array, temperature: float) -> NDArray[np.float64]:
    """The largest softmax(logits / temperature) of each row [N], the whole softmax not being made.

    A pair reckons it for every row that it answers, where a small student itself takes a fifth of a millisecond.
    """
    # In place, and by the ufuncs themselves: for a single row numpy's wrappers take as long as the arithmetic.
    scaled_NC = logits_NC.astype(np.float64)
    scaled_NC /= temperature
    scaled_NC -= np.maximum.reduce(scaled_NC, axis=1, keepdims=True)
    np.exp(scaled_NC, out=scaled_NC)
    largest_N: NDArray[np.float64] = 1 / np.add.reduce(scaled_NC, axis=1)
    return largest_N


def pair_correct(rows: Rows, threshold: float | None) -> NDArray[np.bool_]:
    """Which rows the pair answers right [N]."""
    correct: NDArray[np.bool_] = np.where(rows.accepted(threshold), rows.student_correct, rows.teacher_correct)
    return correct


def score_pair(rows: Rows, threshold: float | None) -> PairScore:
    """Raises ValueError without rows."""
    total = len(rows)
    if not total:
        raise ValueError("there are no rows to score a pair on")
    accepted = rows.accepted(threshold)
    right = int(pair_correct(rows, threshold).sum())
    deferred = int((~accepted).sum())
    harmed = int((accepted & rows.harmful).sum())
    return PairScore(
        threshold=threshold,
        rows=total,
        accuracy=right / total,
        accuracy_interval=clopper_pearson(right, total),
        deferral=deferred / total,
        deferral_interval=clopper_pearson(deferred, total),
        harm=harmed / total,
        harm_interval=clopper_pearson(harmed, total),
        student_accuracy=float(rows.student_correct.mean()),
        teacher_accuracy=float(rows.teacher_correct.mean()),
    )
