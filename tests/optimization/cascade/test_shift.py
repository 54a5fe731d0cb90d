import json

import numpy as np
import pytest
from numpy.typing import NDArray

from optimization.cascade.rows import Rows, score_pair
from optimization.cascade.shift import Shift, measure_shift
from tests import toys
from training.encoding import Array
from training.evaluation.robustness import corrupted, corruption_names
from training.task import Source, Task

ROWS = 30


@pytest.fixture(scope="module")
def task() -> Task:
    return toys.images(Source())


class _Reader:
    """Knows its rows by heart. A fragile one is as sure of any other row, and says that it is of the first class; the
    other takes what is not known for the row that is most like it.
    """

    def __init__(self, task: Task, fragile: bool) -> None:
        split = task.splits["report"]
        self.known = {row.tobytes(): int(label) for row, label in zip(split.inputs, split.labels, strict=True)}
        self.split = split
        self.classes, self.fragile, self.rows = len(task.encoding.labels), fragile, 0

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        self.rows += len(batch)
        logits = np.zeros((len(batch), self.classes), np.float32)
        for row, image in enumerate(batch):
            label = self.known.get(image.tobytes())
            if label is None:
                label = 0 if self.fragile else self._most_like(image)
            logits[row, label] = 9.0
        return logits

    def _most_like(self, image: Array) -> int:
        away = (self.split.inputs.astype(np.float64) - image) ** 2
        return int(self.split.labels[away.sum(axis=(1, 2, 3)).argmin()])


def _shift(task: Task, max_harm: float = 0.5, rows: int = ROWS) -> tuple[Shift, _Reader, _Reader]:
    student, teacher = _Reader(task, fragile=True), _Reader(task, fragile=False)
    found = measure_shift(
        student,
        teacher,
        task,
        task.splits["report"],
        temperature=1.0,
        threshold=0.9,
        max_harm=max_harm,
        rows=rows,
        severities=(1, 5),
    )
    return found, student, teacher


def test_every_corruption_and_severity_is_scored_on_the_same_rows(task: Task) -> None:
    found, student, teacher = _shift(task)
    assert [(one.corruption, one.severity) for one in found.shifted] == [
        (name, severity) for name in corruption_names(task) for severity in (1, 5)
    ]
    assert {one.score.rows for one in found.shifted} == {found.clean.rows} == {ROWS}
    assert student.rows == teacher.rows == ROWS * (1 + len(found.shifted))
    assert found.clean.accuracy == 1.0 and found.clean.deferral == 0.0


def test_a_shifted_row_is_scored_as_any_other(task: Task) -> None:
    found, student, teacher = _shift(task)
    split = task.splits["report"]
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:ROWS])
    name = corruption_names(task)[0]
    images = np.concatenate(list(corrupted(task, split.inputs[chosen], name, 5)))
    rows = Rows.score(student(images), teacher(images), split.labels[chosen], 1.0)
    assert next(o.score for o in found.shifted if (o.corruption, o.severity) == (name, 5)) == score_pair(rows, 0.9)


def test_what_breaks_the_promise_for_certain_is_counted_and_the_guarantee_called_off(task: Task) -> None:
    found, *_ = _shift(task)
    broken = Shift(found.clean, found.shifted, max_harm=1e-9)
    harmed = [one for one in found.shifted if one.score.harm > 0]
    assert len(broken.broken) == len(harmed) > 3
    assert found.broken == () or found.max_harm < found.worst.score.harm
    assert "The guarantee does not hold under a shift" in broken.statement()
    assert broken.worst.corruption in broken.statement()
    assert json.loads(json.dumps(found.to_json()))["broken"] == len(found.broken)


def test_texts_are_shifted_too() -> None:
    texts = toys.texts(Source())
    classes = len(texts.encoding.labels)

    def constant(batch: Array) -> NDArray[np.float32]:
        return np.tile(np.arange(classes, dtype=np.float32), (len(batch), 1))

    found = measure_shift(
        constant,
        constant,
        texts,
        texts.splits["gate"],
        temperature=1.0,
        threshold=0.5,
        max_harm=0.1,
        rows=8,
        severities=(3,),
    )
    assert [one.corruption for one in found.shifted] == list(corruption_names(texts))


def test_nothing_is_not_measured(task: Task) -> None:
    with pytest.raises(ValueError, match="0 rows"):
        _shift(task, rows=0)
