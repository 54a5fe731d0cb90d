"""Plots of a cascade, as matplotlib Figures: what a row costs, whether the bound held, and what a shift does."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from optimization.cascade.resplits import Resplits
from optimization.cascade.shift import Shift
from training.evaluation.plots import FIRST, MUTED, SECOND, WORST, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1d2530"
MARKERS = "osD^vPXd<>hp"
LEGEND_ROW_INCHES = 0.44  # of two lines of text


class Costed(Protocol):
    """A point of a cost curve, a calibration's or a Release's."""

    @property
    def cost_ms(self) -> float: ...
    @property
    def accuracy(self) -> float: ...


@dataclass(frozen=True)
class Spot:
    """One model alone, or the pair, in the plot of accuracy by time. `interval` is of the accuracy."""

    name: str
    ms: float
    accuracy: float
    interval: tuple[float, float] | None = None


def draw_cost(curve: Sequence[Costed], singles: Sequence[Spot], pair: Spot, best: str, where: str) -> "Figure":
    """Accuracy by the time of a row: every model alone, the pair's curve as reckoned, and the pair (a star).

    `best` names the single model that stands out; `where` says what the times are of.
    """
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(8.4, max(4.4, LEGEND_ROW_INCHES * (len(singles) + 2.5)))
    axes = figure.subplots()
    axes.plot(
        [point.cost_ms for point in curve],
        [point.accuracy for point in curve],
        color=FIRST,
        linewidth=2,
        label="pair, by its threshold:\nstudent + deferral x teacher",
    )
    for spot, marker in zip(singles, itertools.cycle(MARKERS)):  # the markers never end
        axes.scatter(
            [spot.ms],
            [spot.accuracy],
            color=SECOND if spot.name == best else MUTED,
            marker=marker,
            s=64,
            zorder=4,
            label=f"{spot.name}\n{spot.accuracy:.2%}, {spot.ms:.3g} ms",
        )
    axes.errorbar(
        [pair.ms],
        [pair.accuracy],
        yerr=None if pair.interval is None else arms(pair.accuracy, pair.interval),
        color=INK,
        linestyle="",
        marker="*",
        markersize=13,
        linewidth=1.2,
        capsize=3,
        zorder=5,
        label=f"{pair.name}\n{pair.accuracy:.2%}, {pair.ms:.3g} ms",
    )
    axes.set_xlim(0, None)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    plain(axes, "Accuracy by time", where, "accuracy")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, labelspacing=0.9)
    return figure


def draw_resplits(found: Sequence[Resplits]) -> "Figure":
    """Harm of every resplit on the rows left over, against the bound of its calibration."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(8.4, 1.2 + 1.7 * len(found))
    panels = np.atleast_1d(figure.subplots(len(found), 1))
    for axes, plan in zip(panels, found, strict=True):
        harms = np.array([one.harm for one in plan.resplits])
        step = plan.max_harm / 28  # so that no bar lies across the bound
        edges = np.arange(0, max(1.6 * plan.max_harm, harms.max()) + step, step)
        kept = np.minimum(harms[harms <= plan.max_harm], plan.max_harm - step / 1e6)  # what is at the bound has kept it
        axes.hist(kept, edges, color=FIRST, alpha=0.85)
        axes.hist(harms[harms > plan.max_harm], edges, color=WORST, alpha=0.85)
        axes.axvline(plan.max_harm, color=WORST, linestyle="--", linewidth=1.3)
        axes.axvline(plan.mean_harm, color=INK, linewidth=1.2)
        axes.set_xlim(0, edges[-1])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        promise = "on average" if plan.count("mean") > len(harms) / 2 else f"with {plan.confidence:.0%} confidence"
        title = (
            f"At most {plan.max_harm:.2%} {promise}, from {plan.rows:,} rows: held in {plan.held:.1%}, "
            f"mean {plan.mean_harm:.2%}"
        )
        plain(axes, title, "", "calibrations")
    panels[-1].set_xlabel("rows harmed, of those left over (dashed: the bound; solid: the mean)")
    return figure


def draw_shift(found: Shift) -> "Figure":
    """Harm and deferral under each corruption and severity, beside the same rows uncorrupted."""
    from matplotlib.ticker import PercentFormatter

    names = sorted({one.corruption for one in found.shifted}, key=lambda name: max(_harms(found, name)))
    severities = sorted({one.severity for one in found.shifted})
    figure = new_figure(9.4, 1.6 + 0.42 * len(names))
    panels = figure.subplots(1, 3, sharey=True)
    heights = np.arange(len(names))
    shown = (("Rows harmed", "harm"), ("Left to the teacher", "deferral"), ("Accuracy of the pair", "accuracy"))
    for axes, (title, field) in zip(panels, shown, strict=True):
        values = {(one.corruption, one.severity): float(getattr(one.score, field)) for one in found.shifted}
        for y, name in zip(heights, names, strict=True):
            row = [values[name, severity] for severity in severities]
            axes.plot([min(row), max(row)], [y, y], color="#c9ced6", linewidth=2.5, zorder=1)
        for severity, colour, marker in zip(severities, (FIRST, SECOND, WORST), "osD", strict=False):
            label = f"severity {severity}" if axes is panels[0] else None
            row = [values[name, severity] for name in names]
            axes.scatter(row, heights, color=colour, marker=marker, s=28, zorder=2, label=label)
        label = "uncorrupted" if axes is panels[0] else None
        axes.axvline(getattr(found.clean, field), color=MUTED, linestyle="--", linewidth=1.1, label=label)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        plain(axes, title)
    panels[0].axvline(found.max_harm, color=WORST, linewidth=1.1, label="promised where nothing shifts")
    panels[0].set_xlim(0, None)
    panels[0].set_yticks(heights, names)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9
    )
    return figure


def _harms(found: Shift, name: str) -> list[float]:
    return [one.score.harm for one in found.shifted if one.corruption == name]


def arms(value: float, interval: tuple[float, float]) -> list[list[float]]:
    """The lengths of an error bar's two arms, as matplotlib takes them."""
    return [[value - interval[0]], [interval[1] - value]]
