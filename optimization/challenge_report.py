"""Challenge report: what a challenge found, as one HTML page, its plots, and a table on a terminal."""

from typing import TYPE_CHECKING

from rich.table import Table

from optimization.challenge import Outcome, Standing
from optimization.plots import verdict_html
from optimization.table import size_text
from training.evaluation.page import facts_html, figure_html, page, section, table_html
from training.evaluation.plots import FIRST, MAX_NAME, MUTED, WORST, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More classes are cut to those that differ most.
MOST_CLASSES = 30


def draw_class_deltas(outcome: Outcome) -> "Figure":
    """Accuracy of the challenger minus the champion's by class, the worst on top."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    deltas = sorted(outcome.classes, key=lambda delta: delta.delta)
    if len(deltas) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        deltas = [*deltas[:half], *deltas[-half:]]
    figure = new_figure(8.4, 1.3 + 0.3 * len(deltas))
    axes = figure.subplots()
    for y, delta in enumerate(reversed(deltas)):
        colour = WORST if delta.worse else FIRST
        axes.plot([0, delta.delta * 100], [y, y], color=colour, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
        axes.scatter([delta.delta * 100], [y], color=colour, s=34, zorder=3)
    axes.axvline(0, color=MUTED, linewidth=1)
    names = [delta.label if len(delta.label) <= MAX_NAME else f"{delta.label[:MAX_NAME]}…" for delta in deltas]
    axes.set_yticks(range(len(deltas)), names[::-1])
    axes.set_ylim(-0.7, len(deltas) - 0.3)
    points = [delta.delta * 100 for delta in deltas]
    axes.set_xlim(min(-0.5, 1.1 * min(points)), max(0.5, 1.1 * max(points)))
    axes.xaxis.set_major_locator(MaxNLocator(9))
    plain(axes, "Challenger against champion, by class", "points of accuracy gained")
    marks = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=label)
        for colour, label in ((WORST, "worse for certain"), (FIRST, "may be chance, or better"))
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def challenge_report(outcome: Outcome, figures: "dict[str, Figure]") -> str:
    """One HTML page that needs no other file."""
    new, old, faster, paired = outcome.challenger, outcome.champion, outcome.speedup, outcome.difference
    tiles = {
        "Verdict": "passed" if outcome.verdict.passed else "failed",
        "Accuracy": f"{paired.difference * 100:+.2f} points",
        "At least": f"{paired.lower * 100:+.2f} points",
        "Flipped answers": f"{outcome.flip_rate:.2%}",
        "Speed-up": f"{faster.ratio:.3g}x" if faster.is_faster else "none shown",
        "Size": f"{old.size_bytes / new.size_bytes:.3g}x smaller" if new.size_bytes < old.size_bytes else "no smaller",
    }
    header = ("", "Accuracy", "95 % interval", "Left to the teacher", "Size", "Time of a row", "Rounds")
    rows = [_cells(name, standing) for name, standing in (("challenger", new), ("champion", old))]
    caption = (
        "By class. Red where the challenger is worse for certain: exact McNemar test, corrected for the number of "
        "classes (Holm)."
    )
    return page(
        f"{new.reference} against {old.reference}",
        tiles,
        [
            section("The two", table_html(header, rows)),
            section("Gate", verdict_html(outcome.verdict)),
            section("What was compared", facts_html(_facts(outcome))),
            *(section("", figure_html(figure, caption)) for figure in figures.values()),
            section("Classes", _classes_html(outcome)),
            section("Measured on", facts_html(_machine(outcome))),
        ],
    )


def _facts(outcome: Outcome) -> dict[str, str]:
    paired, faster = outcome.difference, outcome.speedup
    return {
        "Challenger": outcome.challenger.reference,
        "Champion": outcome.champion.reference,
        "Rows": f"{outcome.rows:,} of the gate split, data hash {outcome.data_hash[:16]}",
        "Margin": f"{outcome.margin * 100:.3g} points",
        "Difference": (
            f"{paired.difference * 100:+.2f} points, {paired.lower * 100:+.2f} to {paired.upper * 100:+.2f} (exact, "
            f"each at {paired.confidence:.0%}); {paired.candidate_only} rows won, {paired.reference_only} lost"
        ),
        "Speed-up": f"{faster.ratio:.3g}, {faster.lower:.3g} to {faster.upper:.3g} over {faster.rounds} rounds",
    }


def _classes_html(outcome: Outcome) -> str:
    deltas = [
        (
            delta.label,
            f"{delta.rows:,}",
            f"{delta.reference_accuracy:.2%}",
            f"{delta.candidate_accuracy:.2%}",
            f"{delta.delta * 100:+.2f}",
            f"{delta.reference_only} / {delta.candidate_only}",
            f"{delta.p_value:.2g}{', worse for certain' if delta.worse else ''}",
        )
        for delta in outcome.classes
    ]
    header = ("Class", "Rows", "Champion", "Challenger", "Points", "Lost / won", "p, corrected")
    return table_html(header, deltas, ["bad" if delta.worse else None for delta in outcome.classes])


def _machine(outcome: Outcome) -> dict[str, str]:
    host = outcome.host
    return {
        "Processor": f"{host.cpu}, {host.cores} cores ({', '.join(host.instructions) or 'no notable instructions'})",
        "Threads a model": str(host.threads),
        "Load": str(outcome.load),
        "System": f"{host.system}, Python {host.python}",
        "Libraries": ", ".join(f"{library} {version}" for library, version in host.libraries),
    }


def challenge_table(outcome: Outcome) -> Table:
    """Both contenders, and under them each check with its finding."""
    table = Table(title=f"{outcome.challenger.reference} against {outcome.champion.reference}", title_justify="left")
    table.add_column("")
    for heading in ("accuracy", "deferred", "size", "ms a row"):
        table.add_column(heading, justify="right")
    for name, standing in (("challenger", outcome.challenger), ("champion", outcome.champion)):
        table.add_row(
            name,
            f"{standing.accuracy:.2%}",
            f"{standing.deferral:.1%}",
            size_text(standing.size_bytes),
            f"{standing.item_ms:.3f}",
        )
    return table


def _cells(name: str, standing: Standing) -> tuple[str, ...]:
    low, high = standing.accuracy_interval
    fastest, slowest = standing.item_spread_ms
    return (
        name,
        f"{standing.accuracy:.2%}",
        f"{low:.2%} to {high:.2%}",
        f"{standing.deferral:.1%}",
        size_text(standing.size_bytes),
        f"{standing.item_ms:.3g} ms",
        f"{fastest:.3g} to {slowest:.3g} ms",
    )
