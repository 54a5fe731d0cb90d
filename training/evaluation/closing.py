"""Closing: what a training says of its model at its end - the report of the val split, and the published figures."""

from collections.abc import Sequence

from training.evaluation import plots
from training.evaluation.findings import Predict, examine
from training.evaluation.page import figure_html, section
from training.evaluation.report import log_report, make_report
from training.evaluation.scores import evaluate, predict_in_batches
from training.registry import Run
from training.task import Task


def evaluate_and_log(
    task: Task, predict: Predict, epochs: Sequence[plots.Epoch], run: Run, title: str, sections: Sequence[str] = ()
) -> float:
    """Log the val split's report (metrics, plots, page) and the report split's scores; returns val accuracy.

    `sections` are further ones of the page, made by `page.section`. Corruptions are left out, which take a model many
    passes: `python -m training.evaluate` measures them.
    """
    findings = examine(predict, task, "val")
    report = task.splits["report"]
    published = evaluate(predict_in_batches(predict, report.inputs), report.labels, task.encoding.labels)
    curves = plots.curves(epochs)
    facts = {
        "Task": task.name,
        "Split": f"val, {findings.evaluation.rows:,} rows: the epoch whose weights were kept was chosen by them",
        "Accuracy on the report split": f"{published.accuracy:.2%} of {len(report):,} rows; nothing was chosen by them",
        "Epochs": str(len(epochs)),
    }
    caption = "By epoch. The ring marks the epoch with the best validation accuracy, whose weights were kept."
    made = make_report(
        title,
        facts,
        findings,
        task,
        sections=[section("The training", figure_html(curves, caption)), *sections],
        figures={"curves": curves},
    )
    run.log_metrics({f"report/{key}": value for key, value in published.metrics().items()})
    log_report(run, made, findings)
    print(f"val accuracy {findings.evaluation.accuracy:.2%}, report accuracy {published.accuracy:.2%}", flush=True)
    return findings.evaluation.accuracy
