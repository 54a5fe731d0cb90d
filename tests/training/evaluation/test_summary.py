from dataclasses import replace

import numpy as np
import pytest

from tests.training.evaluation.invented import image_task, say
from training.encoding import Array
from training.evaluation.findings import Findings, Seen, examine
from training.evaluation.robustness import Corrupted, Robustness
from training.evaluation.summary import percent, summarize

CLASSES = 4


@pytest.fixture(scope="module")
def findings() -> Findings:
    return examine(say(CLASSES), image_task(CLASSES, rows=600), "val")


def _said(findings: Findings) -> str:
    summary = summarize(findings)
    return "\n".join([summary.headline, *summary.good, *summary.fails, *summary.held_back])


def test_it_says_how_good_and_where_it_fails(findings: Findings) -> None:
    summary = summarize(findings)
    worst = min(findings.evaluation.classes, key=lambda one: one.recall)
    assert summary.headline.startswith(f"{percent(findings.evaluation.accuracy)} right (")
    assert f"worst class {worst.label}, {percent(worst.recall)}" in summary.headline
    counts = np.array(findings.evaluation.confusion)
    np.fill_diagonal(counts, 0)
    truth, answer = np.unravel_index(counts.argmax(), counts.shape)
    assert f"to take class {truth} for class {answer}: {counts.max()} of its {findings.errors} errors" in _said(
        findings
    )


def test_too_sure_and_too_modest_are_told_apart() -> None:
    task = image_task(CLASSES, rows=600)
    assert "; overconfident by " in summarize(examine(say(CLASSES, strength=9), task, "val")).headline
    assert "; underconfident by " in summarize(examine(say(CLASSES, strength=0.7), task, "val")).headline


def test_an_error_on_new_rows_alone_is_one_of_generalizing(findings: Findings) -> None:
    assert "it has learned what it was shown" in _said(findings)
    level = replace(findings, seen=Seen(500, findings.evaluation.accuracy, findings.evaluation.interval, 0.5))
    assert "What it errs on it has not learned" in _said(level)
    between = replace(findings, seen=Seen(500, 1 - (1 - findings.evaluation.accuracy) / 2, (0.85, 0.95), 0.001))
    assert "are not learned at all" in _said(between)


def test_corruptions_are_spoken_of_where_they_were_measured(findings: Findings) -> None:
    assert "corruption" not in _said(findings)
    results = (Corrupted("fog", 1, 0.7, (0.6, 0.8)), Corrupted("jpeg", 5, 0.5, (0.4, 0.6)))
    assert "falls to 50.0% under heavy jpeg" in _said(replace(findings, robustness=Robustness(100, 0.8, results)))
    unharmed = replace(findings, robustness=Robustness(100, 0.5, results))
    assert "No corruption lowered its 50.0% on 100 rows" in _said(unharmed)


def test_a_model_without_an_error_is_not_given_a_limit() -> None:
    task = image_task(2, rows=40)

    def perfect(images: Array) -> Array:
        rows = {image.tobytes(): label for split in task.splits.values() for image, label in _pairs(split)}
        logits: Array = np.eye(2)[[rows[image.tobytes()] for image in images]] * 8
        return logits

    said = _said(examine(perfect, task, "val"))
    assert said.startswith("100.0% right (91.2% to 100.0%)")
    assert "40 rows are few" in said
    assert "Nowhere among these 40 rows." in said
    assert "Nothing that these rows could show" in said


def test_a_class_without_rows_is_named() -> None:
    task = image_task(3, rows=100)
    split = task.splits["val"]
    split.labels[split.labels == 2] = 1
    assert "Of class 2 there is no row, so nothing is known of it." in _said(examine(say(3), task, "val"))


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0%"), (1, "100.0%"), (0.9996, "99.960%"), (0.0001, "0.010%"), (0.5, "50.0%")]
)
def test_a_share_reads_none_or_all_only_where_it_is(share: float, text: str) -> None:
    assert percent(share) == text


def _pairs(split: object) -> "zip[tuple[Array, int]]":
    return zip(split.inputs, split.labels, strict=True)  # type: ignore[attr-defined]
