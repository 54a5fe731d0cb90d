"""Plots of what was tried on the way to a learning rate or a micro-batch."""

from typing import TYPE_CHECKING

from training.evaluation.plots import FIRST, MUTED, SECOND, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.loop.find import BatchCurve, RateCurve


def rate_figure(curve: "RateCurve") -> "Figure":
    """Loss by learning rate; the line marks the steepest descent."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color=MUTED, linewidth=0.8, alpha=0.7, label="each step")
    axes.plot(curve.rates, curve.smoothed, color=FIRST, linewidth=1.8, label="smoothed")
    axes.axvline(
        curve.suggestion, color=SECOND, linestyle="--", linewidth=1.5, label=f"steepest, {curve.suggestion:.2g}"
    )
    axes.set_xscale("log")
    # What diverges would press all else to the ground.
    low, high = min(curve.losses), curve.smoothed[0]
    axes.set_ylim(low - 0.1 * (high - low), high + 0.4 * (high - low))
    axes.legend(frameon=False)
    plain(axes, "Learning-rate range test", "learning rate", "loss")
    return figure


def batch_figure(curve: "BatchCurve") -> "Figure":
    """Speed by micro-batch; the ring marks the suggested one."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    axes.plot(curve.rows, curve.samples_per_s, color=FIRST, marker="o", markersize=4, linewidth=1.8)
    speed = curve.samples_per_s[curve.rows.index(curve.suggestion)]
    axes.scatter([curve.suggestion], [speed], s=90, facecolors="none", edgecolors=SECOND, linewidths=1.5)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    plain(axes, f"Throughput by micro-batch; {curve.suggestion} rows suggested", "rows", "samples / s")
    return figure
