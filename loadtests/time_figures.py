"""Figures over time on one axis: answers within the objective, latency, routes, accuracy and replicas."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loadtests.figures import COLOUR_OF_VARIANT, DPI, FAILED, OBJECTIVE, WIDTH_INCHES, clean, literal, png
from loadtests.timeline import Window

Replicas = Sequence[tuple[float, dict[str, int]]]

GOOD, LATE = "#2E8B57", "#E6B422"
# Quiet shades for what is as it should be, loud ones for the fallbacks.
COLOUR_OF_ROUTE = {
    "student: confident": "#0072B2",
    "teacher: escalated": "#E69F00",
    "teacher: pinned": "#E69F00",
    "student: pinned": "#0072B2",
    "student: fallback:overload": "#8FC1E3",
    "student: fallback:timeout": "#B39DDB",
    "student: fallback:unavailable": "#CC79A7",
    "failed": FAILED,
}
FURTHER_COLOURS = ("#009E73", "#56B4E9", "#F0E442", "#999999", "#7F6000")
MAX_ROUTES = 9


def by_time(windows: Sequence[Window], objective_ms: float, replicas: Replicas = ()) -> bytes:
    """A panel for each matter, one below the other; a PNG."""
    panels = [_outcomes, _latency, _routes]
    if any(window.accuracy is not None for window in windows):
        panels.append(_accuracy)
    figure = Figure(figsize=(WIDTH_INCHES, 2.15 * (len(panels) + bool(replicas)) + 0.5), dpi=DPI, layout="constrained")
    rows = figure.subplots(len(panels) + bool(replicas), 1, sharex=True)
    for draw, axes in zip(panels, rows, strict=False):
        clean(axes)
        draw(axes, windows, objective_ms)
    if replicas:
        clean(rows[-1])
        _replicas(rows[-1], replicas)
    for axes in rows:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.03), frameon=False, fontsize=8.5)
    rows[-1].set_xlabel("time (s)")
    rows[-1].set_xlim(windows[0].start_s, windows[-1].start_s + windows[-1].width_s)
    figure.align_ylabels()
    return png(figure)


def _edges(windows: Sequence[Window], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Steps: each value holds from its window's start to its end."""
    times = [at for window in windows for at in (window.start_s, window.start_s + window.width_s)]
    return times, [value for value in values for _ in range(2)]


def _stack(axes: Axes, windows: Sequence[Window], layers: Sequence[tuple[str, str, Sequence[float]]]) -> None:
    below = np.zeros(2 * len(windows))
    for label, colour, values in layers:
        times, steps = _edges(windows, values)
        above = below + np.array(steps)
        axes.fill_between(times, below, above, color=colour, linewidth=0, label=label)
        below = above


def _outcomes(axes: Axes, windows: Sequence[Window], objective_ms: float) -> None:
    layers = [
        (f"within {objective_ms:g} ms", GOOD, [window.good / window.width_s for window in windows]),
        ("late", LATE, [window.late / window.width_s for window in windows]),
        ("failed or shed", FAILED, [window.failed / window.width_s for window in windows]),
    ]
    _stack(axes, windows, [layer for layer in layers if layer[1] == GOOD or any(layer[2])])
    times, offered = _edges(windows, [window.requests / window.width_s for window in windows])
    axes.plot(times, offered, color="#222222", linewidth=0.9, label="offered")
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0)


def _latency(axes: Axes, windows: Sequence[Window], objective_ms: float) -> None:
    middles = [window.start_s + window.width_s / 2 for window in windows]
    for label, name, colour, width in (
        ("p50", "p50_ms", "#8FC1E3", 1.2),
        ("p95", "p95_ms", "#0072B2", 1.8),
        ("p99", "p99_ms", "#7A7A7A", 0.9),
    ):
        values = [getattr(window, name) for window in windows]
        # Infinite where the quantile is a failed request: the line breaks there.
        axes.plot(
            middles, [v if np.isfinite(v) else np.nan for v in values], color=colour, linewidth=width, label=label
        )
    axes.axhline(objective_ms, color=OBJECTIVE, linestyle="--", linewidth=1, label=f"objective {objective_ms:g} ms")
    lost = [at for at, window in zip(middles, windows, strict=True) if not np.isfinite(window.p95_ms)]
    if lost:
        # y in axes units: it has no value to be drawn at.
        axes.plot(lost, [0.96] * len(lost), "x", transform=axes.get_xaxis_transform(), color=FAILED, markersize=4,
                  label="p95 never came")  # fmt: skip
    finite = [window.p99_ms for window in windows if np.isfinite(window.p99_ms)]
    if finite and max(finite) > 6 * objective_ms:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("latency (ms)")


def _routes(axes: Axes, windows: Sequence[Window], objective_ms: float) -> None:
    totals: Counter[str] = Counter()
    for window in windows:
        totals.update(window.routes)
    kept = [name for name, _ in totals.most_common(MAX_ROUTES)]
    # The order of the colours above, so that reports look alike; strangers after them.
    known = [name for name in COLOUR_OF_ROUTE if name in kept]
    strangers = [name for name in kept if name not in COLOUR_OF_ROUTE]
    colours = COLOUR_OF_ROUTE | {
        name: COLOUR_OF_VARIANT.get(name, FURTHER_COLOURS[index % len(FURTHER_COLOURS)])
        for index, name in enumerate(strangers)
    }
    layers = [
        (literal(name), colours[name], [100 * window.routes.get(name, 0) / window.requests for window in windows])
        for name in [*known, *strangers]
    ]
    _stack(axes, windows, layers)
    axes.set_ylim(0, 100)
    axes.set_ylabel("% of requests")


def _accuracy(axes: Axes, windows: Sequence[Window], objective_ms: float) -> None:
    middles = [window.start_s + window.width_s / 2 for window in windows]
    values = [np.nan if window.accuracy is None else 100 * window.accuracy for window in windows]
    axes.plot(middles, values, ".", color="#9BB8A5", markersize=4)
    # A second holds few rows: the line is the mean over five of them.
    smooth = [float(np.nanmean(values[max(0, i - 2) : i + 3])) for i in range(len(values))]
    axes.plot(middles, smooth, color=GOOD, linewidth=1.6, label="accuracy")
    axes.set_ylabel("% right")
    axes.margins(y=0.15)


def _replicas(axes: Axes, replicas: Replicas) -> None:
    names = sorted({name for _, counts in replicas for name in counts})
    for index, name in enumerate(names):
        colour = COLOUR_OF_VARIANT.get(name.lower(), FURTHER_COLOURS[index % len(FURTHER_COLOURS)])
        axes.step([at_s for at_s, _ in replicas], [counts.get(name, 0) for _, counts in replicas], where="post",
                  color=colour, linewidth=1.6, label=literal(name))  # fmt: skip
    axes.set_ylabel("replicas")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
