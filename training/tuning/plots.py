"""Plots of a sweep, as matplotlib Figures in the look of `training/evaluation/plots.py`."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from training.evaluation.plots import FIRST, MUTED, SECOND, new_figure, plain
from training.tuning.ledger import Trial
from training.tuning.space import Range, Space, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_TRIALS = 20  # below this the importances are a hint at most


def progress(trials: Sequence[Trial], best: Trial) -> "Figure":
    """Val accuracy by epoch, one line a trial, and the best of the trials in the order of their numbers."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = new_figure(10, 4.4)
    curves, record = figure.subplots(1, 2, width_ratios=[3, 2])
    scored = [trial for trial in trials if trial.scores]
    for trial in sorted(scored, key=lambda trial: trial.number == best.number):
        _curve(curves, trial, trial.number == best.number)
    curves.yaxis.set_major_formatter(PercentFormatter(1.0))
    curves.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max(trial.scores[-1].epoch for trial in scored)
    curves.set_xlim(0.5, last + 0.5)
    plain(curves, f"Trials by epoch, best {best.accuracy:.2%} by trial {best.number}", "epoch", "val accuracy")

    numbers = [trial.number for trial in scored]
    accuracies = [trial.accuracy for trial in scored]
    record.scatter(numbers, accuracies, s=26, color=MUTED, label="a trial's best epoch", zorder=3)
    so_far = [max(accuracies[: place + 1]) for place in range(len(accuracies))]
    record.step(numbers, so_far, where="post", color=SECOND, linewidth=1.8, label="best so far")
    record.set_xlim(-0.5, max(numbers) + 0.5)
    record.yaxis.set_major_formatter(PercentFormatter(1.0))
    record.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plain(record, "Best by trial", "trial")
    handles = [*_marks(scored), *record.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _curve(axes: "Axes", trial: Trial, is_best: bool) -> None:
    epochs = [score.epoch for score in trial.scores]
    values = [score.val_accuracy for score in trial.scores]
    color, width, order = (SECOND, 2.4, 4) if is_best else (FIRST, 1.1, 2)
    axes.plot(epochs, values, color=color, linewidth=width, alpha=1.0 if is_best else 0.45, zorder=order)
    if trial.status == "stopped":
        axes.scatter(epochs[-1:], values[-1:], marker="x", s=26, color=color, zorder=order + 1)
    elif len(epochs) == 1:
        axes.scatter(epochs, values, s=16, color=color, zorder=order)
    # An exploit shows in the first epoch trained from the copied weights.
    copied = [score for score in trial.scores if any(score.epoch == exploit.epoch + 1 for exploit in trial.exploits)]
    axes.scatter(
        [score.epoch for score in copied], [score.val_accuracy for score in copied],
        marker="^", s=30, color=color, zorder=order + 1,
    )  # fmt: skip


def _marks(trials: Sequence[Trial]) -> list[Any]:
    """What the legend says of the left panel."""
    from matplotlib.lines import Line2D

    marks = []
    if any(trial.status == "stopped" for trial in trials):
        marks.append(Line2D([], [], color=FIRST, marker="x", linestyle="", markersize=6, label="stopped early"))
    if any(trial.exploits for trial in trials):
        marks.append(
            Line2D([], [], color=FIRST, marker="^", linestyle="", markersize=6, label="took another's weights")
        )
    return marks


def parallel_coordinates(space: Space, trials: Sequence[Trial], best: Trial) -> "Figure":
    """One axis a field, in the scale of its range, and one line a trial, coloured by its val accuracy."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    scored = sorted((trial for trial in trials if trial.scores), key=lambda trial: trial.accuracy)
    accuracies = [trial.accuracy for trial in scored]
    low, high = min(accuracies), max(accuracies)
    scale = Normalize(low, high if high > low else low + 1e-6)
    colors = LinearSegmentedColormap.from_list("val accuracy", ["#d5dce5", "#7ba3d0", FIRST, "#0d2c54"])
    columns = len(space.ranges) + 1
    figure = new_figure(max(6.0, 1.9 * columns), 4.6)
    axes = figure.subplots()
    places = list(range(columns))
    for trial in scored:
        heights = [one.share(trial.point[one.field]) for one in space.ranges] + [scale(trial.accuracy)]
        is_best = trial.number == best.number
        axes.plot(
            places, heights, color=SECOND if is_best else colors(scale(trial.accuracy)),
            linewidth=2.6 if is_best else 1.4, zorder=4 if is_best else 2,
        )  # fmt: skip
    for place, one in enumerate(space.ranges):
        _axis(axes, place, [(one.share(value), _say(value)) for value in _ticks(one)])
    middle = [low + part * (high - low) for part in (0.0, 0.5, 1.0)] if high > low else [low]
    _axis(axes, columns - 1, [(float(scale(value)), f"{value:.1%}") for value in middle])
    axes.set_xlim(-0.35, columns - 0.45)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xticks(places, [*(_wrapped(field) for field in space.fields), "val accuracy"])
    plain(axes, f"Points and what they reached; trial {best.number} in orange")
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _axis(axes: "Axes", place: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(place, color="#b6bdc7", linewidth=1, zorder=1)
    for height, text in ticks:
        axes.text(
            place + 0.03, height, text, fontsize=8, color="#27303c", va="center", zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip


def _ticks(one: Range) -> list[Value]:
    if one.kind == "choice":
        return list(one.choices)
    if one.low == one.high:
        return [one.at(0.0)]
    ends = [one.at(0.0), one.at(1.0)]
    if one.kind == "log" and one.high >= 100 * one.low:
        decades = range(math.floor(math.log10(one.low)) + 1, math.ceil(math.log10(one.high)))
        return [ends[0], *(10**decade if one.whole else float(f"1e{decade}") for decade in decades), ends[1]]
    return list(dict.fromkeys([ends[0], *(one.at(share) for share in (0.25, 0.5, 0.75)), ends[1]]))


def _say(value: Value) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _wrapped(field: str) -> str:
    """Long names break at their last dot, or neighbours would run into each other."""
    return field if len(field) < 14 else "\n.".join(field.rsplit(".", 1))


def importance(shares: Mapping[str, tuple[float, float]], trials: int) -> "Figure":
    """Bars of `training.tuning.study.importances`, with its spread; the title says where trials are few."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(7.5, 1.5 + 0.42 * max(2, len(shares)))
    axes = figure.subplots()
    fields = list(shares)[::-1]
    means, spreads = [shares[field][0] for field in fields], [shares[field][1] for field in fields]
    axes.barh(fields, means, height=0.6, color="#7ba3d0", zorder=2)
    lower = [min(mean, spread) for mean, spread in zip(means, spreads, strict=True)]
    axes.errorbar(
        means, fields, xerr=[lower, spreads], fmt="none", ecolor="#27303c", capsize=3, linewidth=1.2, zorder=3
    )
    axes.set_xlim(0, min(1.05, max(mean + spread for mean, spread in zip(means, spreads, strict=True)) * 1.08 + 0.02))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    warning = f" (only {trials} trials: a hint)" if trials < FEW_TRIALS else f" ({trials} trials)"
    plain(
        axes, f"What mattered{warning}", "share of the variance of val accuracy, ± one deviation over resampled trials"
    )
    axes.grid(False, axis="y")
    return figure


def schedules(space: Space, trials: Sequence[Trial], best: Trial) -> "Figure":
    """How a population's fields changed over the epochs, a panel each."""
    from matplotlib.ticker import MaxNLocator

    numbers = [one for one in space.ranges if one.kind != "choice"]
    columns = min(3, len(numbers))
    rows = math.ceil(len(numbers) / columns)
    figure = new_figure(3.6 * columns + 1, 2.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, one in zip(panels, numbers, strict=False):
        for trial in trials:
            if trial.scores:
                epochs = list(range(1, trial.epoch + 1))
                values = [float(trial.point_at(epoch)[one.field]) for epoch in epochs]
                is_best = trial.number == best.number
                panel.step(
                    epochs, values, where="mid", color=SECOND if is_best else FIRST,
                    linewidth=2.2 if is_best else 1.1, alpha=1 if is_best else 0.5, zorder=3 if is_best else 2,
                )  # fmt: skip
        if one.kind == "log":
            panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        plain(panel, one.field, "epoch")
    for panel in list(panels):
        panel.set_visible(False)
    return figure
