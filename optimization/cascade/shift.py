"""Shift: how a calibrated pair does on rows that are not drawn as those that calibrated it.

The guarantee says nothing of such rows. What is measured here is no new guarantee either: other shifts do other things.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optimization.cascade.rows import PairScore, Rows, score_pair
from training.encoding import Array
from training.evaluation.robustness import MEASURED_SEVERITIES, corrupted, corruption_names, uncorrupted
from training.evaluation.scores import predict_in_batches
from training.task import Split, Task

ROWS = 500

Predict = Callable[[Array], Array]


@dataclass(frozen=True)
class Shifted:
    """The pair on rows under one corruption of one severity, see `training.evaluation.corruptions`."""

    corruption: str
    severity: int
    score: PairScore


@dataclass(frozen=True)
class Shift:
    """All on the same rows. `max_harm` is what the Release promises of rows that are drawn as its calibration's."""

    clean: PairScore
    shifted: tuple[Shifted, ...]
    max_harm: float

    @property
    def broken(self) -> tuple[Shifted, ...]:
        """Where harm is above the promise for certain: its exact lower bound is."""
        return tuple(found for found in self.shifted if found.score.harm_interval[0] > self.max_harm)

    @property
    def worst(self) -> Shifted:
        return max(self.shifted, key=lambda found: found.score.harm)

    def statement(self) -> str:
        worst = self.worst
        return (
            f"Under {worst.corruption} of severity {worst.severity}, the worst of {len(self.shifted)} shifts, "
            f"{worst.score.harm:.2%} of {worst.score.rows} rows are harmed (promised for rows like the calibration's: "
            f"{self.max_harm:.2%}; uncorrupted: {self.clean.harm:.2%}), and the teacher is asked for "
            f"{worst.score.deferral:.1%}. The guarantee does not hold under a shift: {len(self.broken)} of "
            f"{len(self.shifted)} break it for certain."
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "broken": len(self.broken)}


def measure_shift(
    student: Predict,
    teacher: Predict,
    task: Task,
    split: Split,
    *,
    temperature: float,
    threshold: float | None,
    max_harm: float,
    rows: int = ROWS,
    severities: Sequence[int] = MEASURED_SEVERITIES,
    seed: int = 0,
) -> Shift:
    """The pair on `rows` rows of `split` (all, where it has fewer), as they are and under every corruption.

    The same seed gives the same rows and the same corrupted inputs.
    """
    if rows < 1 or not severities:
        raise ValueError(f"{rows} rows, severities {list(severities)}: give at least one of each")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:rows])
    inputs, labels = split.inputs[chosen], split.labels[chosen]

    def score(batches: Iterable[Array]) -> PairScore:
        answers = [(predict_in_batches(student, batch), predict_in_batches(teacher, batch)) for batch in batches]
        student_NC, teacher_NC = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return score_pair(Rows.score(student_NC, teacher_NC, labels, temperature), threshold)

    return Shift(
        clean=score([uncorrupted(task, inputs)]),
        shifted=tuple(
            Shifted(name, severity, score(corrupted(task, inputs, name, severity, seed)))
            for name in corruption_names(task)
            for severity in severities
        ),
        max_harm=max_harm,
    )
