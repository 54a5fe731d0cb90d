"""Sections: the parts of an evaluation's page, each the HTML of one group of findings and its plots.

Shape suffixes: C classes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from training.encoding import ImageEncoding
from training.evaluation.examples import Example, picture_png
from training.evaluation.findings import Findings
from training.evaluation.page import (
    facts_html,
    figure_html,
    pair_html,
    pictures_html,
    points_html,
    quotes_html,
    section,
    table_html,
    text_html,
)
from training.evaluation.robustness import MEASURED_SEVERITIES, sample_pictures
from training.evaluation.slices import SliceScore
from training.evaluation.summary import Summary, percent, span
from training.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 30
MOST_CONFUSIONS = 8
MOST_TEXT = 400

Drawn = Mapping[str, "Figure"]


def summary_html(summary: Summary) -> str:
    return (
        points_html("Is it good?", summary.good)
        + points_html("Where does it fail?", summary.fails)
        + points_html("What held it back?", summary.held_back)
    )


def classes_html(findings: Findings, drawn: Drawn) -> str:
    weak = {one.name for one in findings.slices if one.group == "class" and one.weak}
    ordered = sorted(findings.evaluation.classes, key=lambda one: one.f1)
    shown = ordered[:MOST_CLASSES]
    rows = [
        (
            one.label,
            f"{one.support:,}",
            f"{one.precision:.1%}",
            f"{one.recall:.1%}",
            span(one.recall_interval) if one.support else "no rows",
            f"{one.f1:.1%}",
            "weak" if one.label in weak else "",
        )
        for one in shown
    ]
    more = "" if len(shown) == len(ordered) else f" Of {len(ordered)} classes the {len(shown)} weakest are listed."
    return (
        pair_html(
            figure_html(
                drawn["confusion"],
                "Rows are true classes, columns answers. Colour is the share of the true class, cells count rows.",
            ),
            figure_html(
                drawn["per_class"],
                "Precision: how many of the answers of a class were right. Recall: how many of its rows were found.",
            ),
        )
        + _confusions_html(findings)
        + "<h3>Every class, the weakest first</h3>"
        + table_html(
            ("Class", "Rows", "Precision", "Recall", "95 % interval", "F1", ""),
            rows,
            ["bad" if r[-1] else None for r in rows],
        )
        + text_html(
            "Weak: fewer of its rows are found than of as many rows drawn from the whole, and that is no accident "
            f"(p below 0.05 after Holm's correction over all slices).{more}"
        )
    )


def _confusions_html(findings: Findings) -> str:
    errors_CC = np.array(findings.evaluation.confusion)
    np.fill_diagonal(errors_CC, 0)
    order = np.argsort(-errors_CC, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [divmod(int(k), len(errors_CC)) for k in order if errors_CC.flat[k]]
    if not pairs:
        return text_html("Every row was answered right.")
    names, classes = findings.class_names, findings.evaluation.classes
    return table_html(
        ("Commonest mistakes: true → answered", "Rows", "Of all errors", "Of the true class"),
        [
            (
                f"{names[i]} → {names[j]}",
                f"{errors_CC[i, j]:,}",
                f"{errors_CC[i, j] / findings.errors:.1%}",
                f"{errors_CC[i, j] / classes[i].support:.1%}",
            )
            for i, j in pairs
        ],
    )


def examples_html(findings: Findings, task: Task) -> str:
    if not findings.examples:
        return text_html("There are none: every row was answered right.")
    inputs = task.splits[findings.split].inputs
    lead = text_html(
        f"The {len(findings.examples)} of {findings.errors:,} wrong answers with the highest loss, the worst first. "
        "“Label?” marks those that it contradicts as surely as it usually is when it is right."
    )
    if isinstance(task.encoding, ImageEncoding):
        return lead + pictures_html(
            [(picture_png(inputs[one.row]), f"{one.truth} → {one.answer}", _said(one)) for one in findings.examples]
        )
    texts = task.encoder().decode_texts(inputs[[one.row for one in findings.examples]])
    return lead + quotes_html(
        [
            (f"{one.truth} → {one.answer}", _said(one), text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…")
            for one, text in zip(findings.examples, texts, strict=True)
        ]
    )


def _said(example: Example) -> str:
    return f"{percent(example.confidence)} sure, row {example.row}{' · Label?' if example.doubtful else ''}"


def slices_html(slices: Sequence[SliceScore]) -> str:
    shown = [one for one in slices if one.group != "class"]
    rows = [
        (
            f"{one.group}: {one.name}",
            f"{one.rows:,}",
            percent(one.accuracy),
            span(one.interval),
            "not tested" if one.p_value is None else f"{one.p_value:.2g}{', weak' if one.weak else ''}",
        )
        for one in shown
    ]
    if not rows:
        return text_html("Too few rows to part them.")
    return table_html(
        ("Slice", "Rows", "Right", "95 % interval", "p"), rows, ["bad" if one.weak else None for one in shown]
    ) + text_html(
        "p: how likely it is that as many rows drawn at random are answered as badly, corrected for the number of "
        "slices (Holm). Slices by confidence are not tested: to be right less often is what a low confidence says."
    )


def robustness_sections(findings: Findings, task: Task, drawn: Drawn) -> list[str]:
    found = findings.robustness
    if found is None:
        return []
    words = f"On the same {found.rows:,} rows. Mild, medium and heavy are severities {MEASURED_SEVERITIES} of five" + (
        " (after Hendrycks and Dietterich 2019)." if isinstance(task.encoding, ImageEncoding) else "."
    )
    rows = [
        (
            name,
            *(percent(one.accuracy) for one in found.of(name)),
            percent(min(one.interval[0] for one in found.of(name))),
        )
        for name in found.corruptions
    ]
    table = table_html(("Corruption", "Mild", "Medium", "Heavy", "At least (95 %)"), rows)
    body = pair_html(figure_html(drawn["robustness"], words), table)
    if isinstance(task.encoding, ImageEncoding):
        image = task.splits[findings.split].inputs[0]
        pictures = {"as it is": image, **sample_pictures(image, MEASURED_SEVERITIES[-1])}
        body += text_html("One row as it is, and under each corruption at its heaviest:") + pictures_html(
            [(picture_png(picture), name, "") for name, picture in pictures.items()]
        )
    return [section("Under corruption", body)]


def confidence_html(findings: Findings, drawn: Drawn) -> str:
    found = findings.confidence
    gap, spread = found.gap_interval, ""
    if findings.errors:  # rows without an error resample to rows without one: such an interval would say nothing
        spread = f" ({gap.low * 100:+.2f} to {gap.high * 100:+.2f}, {gap.resamples:,} resamples)"
    scores = findings.evaluation
    facts = {
        "Mean confidence": f"{percent(scores.mean_confidence)}, accuracy {percent(scores.accuracy)}",
        "Gap between the two": f"{found.gap * 100:+.2f} points{spread}",
        "Expected calibration error": f"{found.ece:.2%}; by chance alone up to {found.ece_by_chance:.2%}",
        "Log loss": f"{scores.log_loss:.4f} ({findings.log_loss_interval.low:.4f} to "
        f"{findings.log_loss_interval.high:.4f})",
        "Brier score": f"{scores.brier:.4f} (0 at best, 2 at worst)",
    }
    parts = [figure_html(drawn["reliability"], "A calibrated model is right as often as it is confident: no gap.")]
    if found.temperature is not None and found.ece_scaled is not None:
        facts["Temperature"] = (
            f"{found.temperature:.3f}, fitted on calibration rows; calibration error then {found.ece_scaled:.2%}"
        )
        parts.append(figure_html(drawn["reliability_scaled"], "The same rows, logits divided by the temperature."))
    return pair_html(*parts) + facts_html(facts)


def coverage_html(findings: Findings, drawn: Drawn) -> str:
    found = findings.coverage
    rows = [
        (f"{kept.coverage:.0%}", percent(kept.accuracy), span(kept.interval), f"{kept.least_confidence:.1%}")
        for kept in found.kept
    ]
    caption = (
        "What a student would answer itself, and what it would leave to a teacher. Area under the curve "
        f"{found.aurc:.4f}; at best {found.aurc_best:.4f}, without any order {found.aurc_random:.4f}."
    )
    return pair_html(
        figure_html(drawn["coverage"], caption),
        table_html(("Rows kept", "Right", "95 % interval", "Least confidence"), rows),
    )


def ranking_sections(findings: Findings, drawn: Drawn) -> list[str]:
    found = findings.ranking
    heading = "Each class against the rest"
    if not found.classes:
        return [section(heading, text_html("ROC and precision-recall are not defined: there is but one class here."))]
    interval, words = found.auc_interval, ""
    if interval is not None and findings.errors:
        words = f" ({interval.low:.4f} to {interval.high:.4f}, {interval.resamples:,} resamples)"
    lead = f"Mean AUC {found.macro_auc:.4f}{words}; mean average precision {found.macro_average_precision:.4f}."
    if found.undefined:
        lead += f" Not defined for {', '.join(found.undefined[:10])}: no rows here."
    pair = pair_html(
        figure_html(drawn["roc"], "The three worst classes in colour, the others in grey."),
        figure_html(drawn["precision_recall"], "How pure the answers stay as more of a class is found."),
    )
    return [section(heading, text_html(lead) + pair)]
