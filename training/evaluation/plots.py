"""Plots of a training and of scores, as matplotlib Figures (drawn off screen), and the look that all plots share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from training.encoding import Array
from training.evaluation.scores import Evaluation, reliability_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and orange stay apart for colour-blind readers and in grey print.
FIRST, SECOND, MUTED = "#1f5fa8", "#d9730d", "#8a93a0"
WORST = "#b3261e"
# Above this many classes cell counts no longer fit, and the bars of a class table grow too thin to name.
MAX_COUNTED_CLASSES = 20
# Longer names are cut: an axis has no room for more.
MAX_NAME = 18


class Epoch(Protocol):
    """What a training loop records of one epoch."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def val_loss(self) -> float: ...
    @property
    def val_accuracy(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def samples_per_s(self) -> float: ...


def new_figure(width: float, height: float) -> "Figure":
    """A Figure that belongs to no window and to no pyplot state, so that threads may draw at once."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: "Axes", title: str, x_label: str = "", y_label: str = "") -> None:
    """The look that all plots share: title on the left, light grid, no box."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b6bdc7")
    axes.tick_params(colors="#444b55")


def curves(epochs: Sequence[Epoch]) -> "Figure":
    """Loss, validation accuracy, learning rate and throughput by epoch; raises ValueError without an epoch."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    if not epochs:
        raise ValueError("there are no epochs to draw")
    figure = new_figure(9, 5.8)
    axes = figure.subplots(2, 2)
    steps = [record.epoch for record in epochs]
    marker = "o" if len(epochs) < 25 else None
    style: dict[str, Any] = {"marker": marker, "markersize": 4, "linewidth": 1.8}

    loss, accuracy, rate, speed = axes.flat
    loss.plot(steps, [record.train_loss for record in epochs], color=FIRST, label="train", **style)
    loss.plot(steps, [record.val_loss for record in epochs], color=SECOND, label="validation", **style)
    loss.legend(frameon=False)
    plain(loss, "Loss")

    accuracies = [record.val_accuracy for record in epochs]
    best = max(range(len(accuracies)), key=lambda i: (accuracies[i], i))
    accuracy.plot(steps, accuracies, color=SECOND, **style)
    accuracy.scatter([steps[best]], [accuracies[best]], s=90, facecolors="none", edgecolors=SECOND, linewidths=1.5)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    plain(accuracy, f"Validation accuracy, best {accuracies[best]:.2%} in epoch {steps[best]}")

    rate.plot(steps, [record.learning_rate for record in epochs], color=FIRST, **style)
    rate.set_ylim(bottom=0)
    plain(rate, "Learning rate", "epoch")

    speed.plot(steps, [record.samples_per_s for record in epochs], color=FIRST, **style)
    speed.set_ylim(bottom=0)
    plain(speed, "Throughput", "epoch", "samples / s")
    for panel in axes.flat:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    return figure


def short(name: str) -> str:
    """A class name as an axis has room for."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def confusion(evaluation: Evaluation, class_names: Sequence[str]) -> "Figure":
    """Confusion matrix: coloured by the share of each true class, so that rare classes show; cells hold counts.

    Of many classes only those are shown that take part in most errors.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts_CC = np.array(evaluation.confusion)
    shares_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    shown = most_confused(counts_CC)
    counts_SS, shares_SS = counts_CC[np.ix_(shown, shown)], shares_CC[np.ix_(shown, shown)]
    names = [short(class_names[i]) for i in shown]
    side = min(8.0, 1.8 + 0.36 * len(names))
    figure = new_figure(side, side * 0.95)
    axes = figure.subplots()
    # Errors are few beside what is right: the root brings them out. What is empty shows the page behind it.
    blues = LinearSegmentedColormap.from_list("blues", [(0.12, 0.37, 0.66, 0.0), (0.12, 0.37, 0.66, 1.0)])
    axes.imshow(shares_SS**0.5, cmap=blues, vmin=0, vmax=1)
    part = "" if len(names) == len(class_names) else f", the {len(names)} most confused of {len(class_names)} classes"
    plain(axes, f"Confusion on {evaluation.rows:,} rows{part}", "answered", "true")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    long_names = max(len(name) for name in names) > 3
    axes.set_xticks(range(len(names)), names, rotation=45 if long_names else 0)
    if long_names:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for i, j in np.argwhere(counts_SS > 0):
        dark = shares_SS[i, j] ** 0.5 > 0.55
        axes.text(j, i, f"{counts_SS[i, j]}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return figure


def most_confused(counts_CC: Array, most: int = MAX_COUNTED_CLASSES) -> list[int]:
    """The classes with the most wrong answers, given or received, in their own order; all, where there are few."""
    if len(counts_CC) <= most:
        return list(range(len(counts_CC)))
    errors_CC = counts_CC - np.diag(np.diag(counts_CC))
    errors_C = errors_CC.sum(axis=0) + errors_CC.sum(axis=1)
    return sorted(int(i) for i in np.argsort(-errors_C, kind="stable")[:most])


def reliability(logits_BC: Array, labels_B: Array, temperature: float = 1.0, title: str = "Reliability") -> "Figure":
    """Accuracy by confidence, the gap to it, and how confidences are spread; logits are divided by `temperature`."""
    from matplotlib.ticker import PercentFormatter

    binned = reliability_bins(logits_BC / temperature, labels_B)
    held = binned.counts > 0
    left, width = binned.edges[:-1], np.diff(binned.edges)
    centre = left + width / 2
    figure = new_figure(5.2, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    accuracy, confidence = binned.accuracy[held], binned.confidence[held]
    upper.bar(centre[held], accuracy, width[held] * 0.94, color="#7ba3d0", label="accuracy")
    upper.bar(
        centre[held],
        confidence - accuracy,
        width[held] * 0.94,
        bottom=accuracy,
        facecolor="none",
        edgecolor=SECOND,
        hatch="///",
        linewidth=1,
        label="gap to confidence",
    )
    upper.plot([0, 1], [0, 1], color="#444b55", linestyle="--", linewidth=1, label="perfect calibration")
    upper.set_ylim(0, 1.02)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    plain(upper, f"{title}: calibration error {binned.ece:.2%}", y_label="accuracy")
    lower.bar(centre, binned.counts / binned.counts.sum(), width * 0.94, color=MUTED)
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.xaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_xlim(0, 1)
    plain(lower, "", "confidence (largest softmax)", "share of rows")
    return figure


def per_class(evaluation: Evaluation, class_names: Sequence[str]) -> "Figure":
    """Precision, recall and F1 of each class, the weakest F1 first; the axis begins near the lowest score."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    order = sorted(range(len(class_names)), key=lambda i: evaluation.classes[i].f1, reverse=True)
    shown = order[-2 * MAX_COUNTED_CLASSES :]
    scores = [evaluation.classes[i] for i in shown]
    figure = new_figure(5.6, 1.6 + 0.3 * len(shown))
    axes = figure.subplots()
    rows = np.arange(len(shown))
    lowest = min(min(score.precision, score.recall, score.f1) for score in scores)
    for y, score in zip(rows, scores, strict=True):
        axes.plot([score.precision, score.recall], [y, y], color="#c9ced6", linewidth=2.5, zorder=1)
    axes.scatter(
        [score.precision for score in scores], rows, marker="s", color=FIRST, s=30, label="precision", zorder=2
    )
    axes.scatter([score.recall for score in scores], rows, marker="o", color=SECOND, s=34, label="recall", zorder=3)
    axes.scatter([score.f1 for score in scores], rows, marker="|", color="black", s=110, label="F1", zorder=4)
    axes.set_yticks(rows, [f"{short(class_names[i])}  ({evaluation.classes[i].support:,})" for i in shown])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    floor = max(0.0, np.floor(lowest * 20 - 0.5) / 20)
    axes.set_xlim(floor, 1 + (1 - floor) * 0.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    title = "Scores by class, the weakest first" if len(shown) == len(order) else f"The {len(shown)} weakest classes"
    plain(axes, title, "score (rows of the class in brackets)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
