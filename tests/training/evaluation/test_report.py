import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.toys import texts
from tests.training.evaluation.invented import image_task, say
from training.encoding import Array, TextEncoding
from training.evaluation.findings import Findings, examine
from training.evaluation.page import section, text_html
from training.evaluation.report import Report, findings_json, make_report
from training.task import Source, Split, Task


def _report(task: Task, findings: Findings) -> Report:
    return make_report("A title", {"Version": "<b>7</b>"}, findings, task)


def _cut(task: Task, rows: int) -> Task:
    val = task.splits["val"]
    return replace(task, splits={**task.splits, "val": Split(val.inputs[:rows], val.labels[:rows])})


def test_the_page_begins_with_the_verdict_and_needs_nothing_else() -> None:
    task = image_task(3)
    findings = examine(say(3), task, "val", corruption_rows=40)
    report = make_report(
        "<A> title", {"Version": "<b>7</b>"}, findings, task, sections=[section("Where time went", text_html("Here."))]
    )
    page = report.html
    assert page.index("&lt;A&gt; title") < page.index(f"{report.summary.headline}.") < page.index("Is it good?")
    assert "Where time went" in page and "&lt;b&gt;7&lt;/b&gt;" in page and "<b>7</b>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page and "@import" not in page and "url(http" not in page
    scores = {"confusion", "per_class", "reliability", "reliability_scaled", "coverage", "roc", "precision_recall"}
    assert set(report.figures) == scores | {"robustness"}
    # Every example, and one row as it is and under each of eight corruptions.
    assert page.count("<img") == len(findings.examples) + 9


@pytest.mark.parametrize(("classes", "channels"), [(2, 1), (3, 3), (120, 1)])
def test_few_classes_many_and_colour_make_a_page(classes: int, channels: int) -> None:
    task = image_task(classes, rows=300, channels=channels)
    findings = examine(say(classes), task, "val")
    page = _report(task, findings).html
    assert ("Of 120 classes the 30 weakest are listed." in page) == (classes == 120)
    assert "Under corruption" not in page
    assert json.loads(findings_json(findings))["evaluation"]["rows"] == 300
    metrics = findings.metrics()
    assert ("recall/class 1" in metrics) == (classes <= 40)
    assert all(np.isfinite(value) for value in metrics.values())


def test_a_single_row_makes_a_page_that_says_what_is_not_defined() -> None:
    task = _cut(image_task(2), 1)
    findings = examine(say(2), task, "val", corruption_rows=5)
    page = _report(task, findings).html
    assert "ROC and precision-recall are not defined" in page
    assert "macro_auc" not in findings.metrics()
    json.loads(findings_json(findings))


def test_classes_missing_from_the_split_are_named() -> None:
    task = image_task(3)
    val = task.splits["val"]
    held = val.labels != 2
    task = replace(task, splits={**task.splits, "val": Split(val.inputs[held], val.labels[held])})
    page = _report(task, examine(say(3), task, "val")).html
    assert "Not defined for class 2: no rows here." in page
    assert "no rows" in page


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of logits hold NaN"):
        examine(lambda images: np.full((len(images), 2), np.nan), image_task(2), "val")


def test_texts_are_shown_as_texts_and_long_ones_cut() -> None:
    task = texts(Source())
    assert isinstance(task.encoding, TextEncoding)

    def calm(tokens: Array) -> Array:
        return np.tile(np.array([1.0, 0.0]), (len(tokens), 1))

    findings = examine(calm, task, "val", corruption_rows=20)
    page = _report(task, findings).html
    assert "storm" in page and "wild → calm" in page
    assert "<img" not in page
    tall = replace(task.encoding, max_tokens=900)
    val = task.splits["val"]
    long = Split(np.repeat(val.inputs[:, :1], 900, axis=1), val.labels)
    stretched = replace(task, encoding=tall, splits={**task.splits, "val": long})
    cells = re.findall(r"<br>([^<]*)…</blockquote>", _report(stretched, examine(calm, stretched, "val")).html)
    assert cells and {len(cell) for cell in cells} == {400}


def test_the_temperature_comes_from_other_rows_than_it_is_judged_by() -> None:
    task = image_task(2, rows=400)
    before = examine(say(2), task, "val").confidence.temperature
    task.splits["val"].labels[:] = 1 - task.splits["val"].labels
    assert examine(say(2), task, "val").confidence.temperature == before
    assert examine(say(2), task, "calibration").confidence.temperature is None
