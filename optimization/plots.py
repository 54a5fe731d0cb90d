"""Plots of a build, as matplotlib Figures, and its report as one HTML page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from optimization.cascade.calibration import Calibration
from optimization.cascade.plots import Spot, draw_cost
from optimization.cascade.shift import Shift
from optimization.gate import Verdict
from optimization.release import Expectation
from optimization.table import size_text
from training.evaluation.page import facts_html, figure_html, page, section, table_html
from training.evaluation.plots import FIRST, MUTED, SECOND, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from optimization.comparison import Comparison, VariantRow

MARKERS = "osD^vPX*"
COLOURS = (FIRST, SECOND, "#2f8f5b", "#8a4fb0", "#b3261e", "#5b6675")
CAPTIONS = {
    "accuracy_latency": (
        "Accuracy on the report split, with its exact 95 % interval, by the median time of one call of one row. "
        "The bar to the right of each point ends at the 95th percentile; the point's area grows with size on disk."
    ),
    "cost": (
        "Accuracy on the gate split by the expected time of a row: the student's median, and the teacher's more for "
        "every row that is deferred. The models alone are of the report split."
    ),
    "shift": (
        "The pair on corrupted gate rows, for which nothing is promised: the guarantee holds for rows that are drawn "
        "as the calibration's were."
    ),
    "cascade": (
        "What the pair answers, by the share of rows that are left to the teacher, on the calibration rows. A row is "
        "harmed when the student answers it wrong and the teacher would have been right."
    ),
}


def accuracy_latency_scatter(rows: Sequence["VariantRow"]) -> "Figure":
    """Accuracy with its interval against p50 to p95 latency; upper left is better."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    if not rows:
        raise ValueError("there are no variants to draw")
    figure = new_figure(8.4, 4.6)
    axes = figure.subplots()
    largest = max(row.size_bytes for row in rows)
    for i, row in enumerate(rows):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot([row.p50_ms, row.p95_ms], [row.accuracy] * 2, color=colour, linewidth=1.6, alpha=0.7)
        axes.plot([row.p50_ms] * 2, [row.accuracy_low, row.accuracy_high], color=colour, linewidth=1.6, alpha=0.7)
        axes.scatter(
            [row.p50_ms],
            [row.accuracy],
            s=45 + 260 * row.size_bytes / largest,
            marker=MARKERS[i % len(MARKERS)],
            color=colour,
            alpha=0.9,
            zorder=3,
            label=f"{row.variant}\n{row.accuracy:.2%}, {row.p50_ms:.3g} ms, {size_text(row.size_bytes)}",
        )
    slowest, fastest = max(row.p95_ms for row in rows), min(row.p50_ms for row in rows)
    if slowest > 8 * fastest:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(fastest / 1.4, slowest * 1.4)
    else:
        axes.set_xlim(0, slowest * 1.08)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    plain(axes, "Accuracy against latency", "latency of one row, ms (p50, line to p95)", "accuracy")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, labelspacing=1.2, markerscale=0.6)
    return figure


def cascade_curve(calibration: Calibration) -> "Figure":
    """Accuracy and harm of the pair by deferral, with the chosen threshold marked where there is one."""
    from matplotlib.ticker import PercentFormatter

    points, guarantee = calibration.curve, calibration.guarantee
    deferral = [point.deferral for point in points]
    figure = new_figure(8.4, 6.6)
    accuracy, harm = figure.subplots(2, 1, sharex=True)
    accuracy.plot(deferral, [point.accuracy for point in points], color=FIRST, linewidth=2, label="pair")
    accuracy.axhline(calibration.teacher_accuracy, color=MUTED, linestyle="--", linewidth=1.2, label="teacher alone")
    accuracy.axhline(calibration.student_accuracy, color=MUTED, linestyle=":", linewidth=1.6, label="student alone")
    harm.plot(deferral, [point.harm for point in points], color=SECOND, linewidth=2, label="rows harmed")
    harm.fill_between(
        deferral,
        [point.harm for point in points],
        [point.harm_upper for point in points],
        color=SECOND,
        alpha=0.18,
        linewidth=0,
        label="up to its one-sided bound",
    )
    harm.axhline(
        guarantee.max_harm, color="#b3261e", linestyle="--", linewidth=1.2, label=f"limit, {guarantee.max_harm:.1%}"
    )
    chosen = next((point for point in points if point.threshold == calibration.threshold), None)
    if chosen is not None:
        where = f"threshold {chosen.threshold:.4g}: {chosen.deferral:.1%} deferred"
        for axes, value in ((accuracy, chosen.accuracy), (harm, chosen.harm)):
            axes.axvline(chosen.deferral, color="#444b55", linewidth=1)
            axes.scatter([chosen.deferral], [value], color="#1d2530", s=42, zorder=5, label=where, clip_on=False)
            where = "chosen"
    title = "Accuracy of the pair" if chosen else "Accuracy of the pair (no threshold: the teacher answers every row)"
    plain(accuracy, title, y_label="accuracy")
    plain(harm, "Harm", "rows deferred to the teacher", "share of rows")
    harm.set_xlim(0, 1)
    # The bound soars where rows are few; what matters is its meeting with the limit.
    harm.set_ylim(0, 1.15 * max(3 * guarantee.max_harm, max(point.harm for point in points)))
    for axes in (accuracy, harm):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def cascade_cost(expected: Expectation, comparison: "Comparison") -> "Figure":
    """Accuracy of the pair on the gate rows by the expected time of a row, beside every model alone."""
    singles = [Spot(row.variant, row.p50_ms, row.accuracy) for row in comparison.rows]
    pair = Spot("pair, expected", expected.cost_ms, expected.accuracy)
    return draw_cost(expected.curve, singles, pair, comparison.rows[0].variant, "milliseconds a row (medians)")


def comparison_table_html(rows: Sequence["VariantRow"]) -> str:
    """The variants side by side; a speed-up whose interval includes 1 is not claimed."""
    header = ("Variant", "Accuracy", "95 % interval", "Size", "p50", "p95", "p50 of 8 rows", "Speed-up")
    cells = [
        (
            row.variant,
            f"{row.accuracy:.2%}",
            f"{row.accuracy_low:.2%} to {row.accuracy_high:.2%}",
            size_text(row.size_bytes),
            f"{row.p50_ms:.3g} ms",
            f"{row.p95_ms:.3g} ms",
            f"{row.batch8_p50_ms:.3g} ms",
            _speedup(row, reference=i == 0),
        )
        for i, row in enumerate(rows)
    ]
    marks = ["good" if row.speedup_low > 1 else "bad" if row.speedup_high < 1 else None for row in rows]
    return table_html(header, cells, marks)


def build_report(
    name: str,
    comparison: "Comparison",
    calibration: Calibration,
    verdicts: Mapping[str, Verdict],
    figures: Mapping[str, "Figure"],
    expected: Expectation,
    shift: Shift,
) -> str:
    """One HTML page that needs no other file; the first row of `comparison` is the reference of speed-ups."""
    pair = comparison.pair
    student = next(row for row in comparison.rows if row.variant == pair.student)
    teacher = comparison.rows[0]
    served = [verdict.passed for key, verdict in verdicts.items() if key in (pair.student, "release")]
    tiles = {
        "Verdict": "passed" if all(served) else "failed",
        "Accuracy of the pair": f"{pair.accuracy:.2%}",
        "Left to the teacher": f"{pair.deferral:.1%}",
        "Rows harmed": f"{pair.harm:.2%}",
        "Student's size": f"{teacher.size_bytes / student.size_bytes:.3g}x smaller",
        "Student's speed-up": f"{student.speedup:.3g}x" if student.speedup_low > 1 else "none shown",
    }
    facts = {
        "Student": pair.student,
        "Temperature": f"{calibration.temperature:.4g}",
        "Threshold": "none" if calibration.threshold is None else f"{calibration.threshold:.7g}",
        "Mean time of a row": f"{pair.mean_ms:.3g} ms (reckoned: the student's p50, plus the teacher's where deferred)",
        "Expected deferral": (
            f"{expected.deferral:.1%} ({expected.deferral_interval[0]:.1%} to {expected.deferral_interval[1]:.1%}, "
            f"exact, on {expected.rows:,} gate rows), which costs {expected.cost_ms:.3g} ms a row"
        ),
        "Under a shift": shift.statement(),
        "Guarantee": f"{calibration.guarantee.kind.replace('_', ' ')}. {calibration.guarantee.statement}",
    }
    host = comparison.host
    machine = {
        "Processor": f"{host.cpu}, {host.cores} cores ({', '.join(host.instructions) or 'no notable instructions'})",
        "Threads a model": str(host.threads),
        "Load": str(comparison.load),
        "System": f"{host.system}, Python {host.python}",
        "Libraries": ", ".join(f"{library} {version}" for library, version in host.libraries),
    }
    return page(
        f"Build of {name}",
        tiles,
        [
            section(f"Variants, on {comparison.report_rows:,} report rows", comparison_table_html(comparison.rows)),
            section("The pair", facts_html(facts)),
            *(section(f"Gate: {key}", verdict_html(verdict)) for key, verdict in verdicts.items()),
            *(section("", figure_html(figure, CAPTIONS.get(key, key))) for key, figure in figures.items()),
            section("Measured on", facts_html(machine)),
        ],
    )


def verdict_html(verdict: Verdict) -> str:
    """A verdict's checks, each with its sentence and whether it passed."""
    rows = [
        (check.name.replace("_", " "), check.sentence, "passed" if check.passed else "failed")
        for check in verdict.checks
    ]
    return table_html(
        ("Check", "Finding", ""), rows, ["good" if check.passed else "bad" for check in verdict.checks], text=True
    )


def _speedup(row: "VariantRow", reference: bool = False) -> str:
    if reference:
        return "reference"
    interval = f"{row.speedup_low:.3g} to {row.speedup_high:.3g}"
    if row.speedup_low <= 1 <= row.speedup_high:
        return f"none shown ({interval})"
    return f"{row.speedup:.3g}x ({interval})"
