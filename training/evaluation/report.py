"""Report: the findings of an evaluation as one HTML page, and what of it goes into MLflow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.evaluation import plots
from training.evaluation.coverage import draw_coverage
from training.evaluation.findings import Findings
from training.evaluation.page import facts_html, page, section
from training.evaluation.ranking import draw_pr, draw_roc
from training.evaluation.robustness import draw_robustness
from training.evaluation.sections import (
    classes_html,
    confidence_html,
    coverage_html,
    examples_html,
    ranking_sections,
    robustness_sections,
    slices_html,
    summary_html,
)
from training.evaluation.summary import Summary, percent, span, summarize
from training.registry import Run
from training.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Report:
    """A page, the figures in it by name, and the summary it begins with."""

    html: str
    figures: Mapping[str, "Figure"]
    summary: Summary


def make_report(
    title: str,
    facts: Mapping[str, str],
    findings: Findings,
    task: Task,
    sections: Sequence[str] = (),
    figures: Mapping[str, "Figure"] | None = None,
) -> Report:
    """`facts` are names and values of the model and its data; `sections`, as `page.section` makes them, come after
    the three questions are answered in detail. `figures` are further ones to be logged beside the page's own.
    """
    summary = summarize(findings)
    drawn = draw_figures(findings)
    parts = [
        section("In short", summary_html(summary)),
        section("Classes and confusions", classes_html(findings, drawn)),
        section("The costliest mistakes", examples_html(findings, task)),
        section("Parts of the rows", slices_html(findings.slices)),
        *robustness_sections(findings, task, drawn),
        section("How far its confidence can be believed", confidence_html(findings, drawn)),
        section("What it would keep in a cascade", coverage_html(findings, drawn)),
        *ranking_sections(findings, drawn),
        *sections,
        section("What was evaluated", facts_html(facts)),
    ]
    return Report(page(title, _tiles(findings), parts, f"{summary.headline}."), {**drawn, **(figures or {})}, summary)


def log_report(run: Run, report: Report, findings: Findings) -> None:
    """Into `run`: metrics under the split's name, the plots, evaluation.json and report.html."""
    run.log_metrics({f"{findings.split}/{name}": value for name, value in findings.metrics().items()})
    run.log_figures(report.figures)
    run.log_text(findings_json(findings), "evaluation.json")
    run.log_text(report.html, "report.html")


def findings_json(findings: Findings) -> str:
    return json.dumps(findings.to_json(), indent=2)


def draw_figures(findings: Findings) -> dict[str, "Figure"]:
    """The plots of the page by name; those whose figures are not defined are left out."""
    evaluation, names = findings.evaluation, findings.class_names
    drawn = {
        "confusion": plots.confusion(evaluation, names),
        "per_class": plots.per_class(evaluation, names),
        "reliability": plots.reliability(findings.logits, findings.labels),
        "coverage": draw_coverage(findings.coverage),
    }
    if findings.confidence.temperature is not None:
        drawn["reliability_scaled"] = plots.reliability(
            findings.logits, findings.labels, findings.confidence.temperature, "Scaled"
        )
    if findings.ranking.classes:
        drawn |= {"roc": draw_roc(findings.ranking), "precision_recall": draw_pr(findings.ranking)}
    if findings.robustness is not None:
        drawn["robustness"] = draw_robustness(findings.robustness)
    return drawn


def _tiles(findings: Findings) -> dict[str, str]:
    scores = findings.evaluation
    tiles = {
        "Right": percent(scores.accuracy),
        "95 % interval": span(scores.interval).replace("% to ", " to "),
        "Macro F1": percent(scores.macro_f1),
        "Calibration error": percent(scores.ece),
    }
    if findings.ranking.macro_auc is not None:
        tiles["Mean AUC"] = f"{findings.ranking.macro_auc:.4f}"
    if findings.robustness is not None:
        tiles["Under corruption"] = percent(findings.robustness.mean_accuracy)
    return tiles
