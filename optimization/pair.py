"""Pair: a student and a teacher as one callable, answering as a Release says, in one process.

Shape suffixes: B rows, C classes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from optimization.cascade.rows import confidence
from training.encoding import Array

Predict = Callable[[Array], Array]


class Pair:
    """A batch -> the logits [B, C] of whoever answers each row: the student where its largest
    softmax(logits / temperature) reaches the threshold, else the teacher. Without a threshold the teacher answers
    everything and the student is not asked.
    """

    def __init__(self, student: Predict, teacher: Predict, temperature: float, threshold: float | None) -> None:
        self._student, self._teacher = student, teacher
        self._temperature, self._threshold = temperature, threshold

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        if self._threshold is None:
            logits_BC: NDArray[np.float32] = np.asarray(self._teacher(batch), dtype=np.float32)
            return logits_BC
        logits_BC = np.asarray(self._student(batch), dtype=np.float32)
        deferred_B = confidence(logits_BC, self._temperature) < self._threshold
        if deferred_B.all():  # as of a row by itself: nothing is to be put together
            return np.asarray(self._teacher(batch), dtype=np.float32)
        if deferred_B.any():
            logits_BC = np.array(logits_BC)  # a runtime's own buffer is not ours to write to
            logits_BC[deferred_B] = self._teacher(batch[deferred_B])
        return logits_BC
