"""Figures of one run, each a PNG: latency by time, latency distribution, route mix."""

import io
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtests.summary import UNKNOWN, Judged, quantile

# Okabe-Ito colours: told apart by colour-blind readers too.
COLOUR_OF_VARIANT = {"student": "#0072B2", "teacher": "#E69F00", "mixed": "#009E73", UNKNOWN: "#56B4E9"}
FURTHER_COLOURS = ("#CC79A7", "#56B4E9", "#F0E442", "#999999")
FAILED = "#C0392B"
OBJECTIVE = "#333333"
WIDTH_INCHES = 9.6
DPI = 150
MAX_ROUTES = 8
# More points than this hide each other and only make the file slow to draw.
MAX_POINTS = 20_000


def latency_by_time(judged: Sequence[Judged], p95_ms: float) -> bytes:
    """One point a request over its scheduled time, coloured by variant; failures as crosses along the top."""
    figure, axes = _figure(3.6)
    shown = judged[:: 1 + len(judged) // MAX_POINTS]
    good = [item for item in shown if item.error is None]
    for variant, colour in _colours(good).items():
        mine = [item for item in good if item.variant == variant]
        axes.scatter(
            [item.scheduled_s for item in mine],
            [item.latency_ms for item in mine],
            s=14,
            alpha=0.65,
            linewidths=0,
            color=colour,
            label=f"{_named(variant)} ({len(mine):,})",
        )
    _log_if_wide(axes.set_yscale, good, p95_ms)
    failed_s = [item.scheduled_s for item in judged if item.error is not None]
    axes.axhline(p95_ms, color=OBJECTIVE, linestyle="--", linewidth=1, label=f"objective {p95_ms:g} ms")
    if failed_s:
        # y in axes units: a failure has no latency to be drawn at.
        axes.plot(
            failed_s,
            [0.97] * len(failed_s),
            "x",
            transform=axes.get_xaxis_transform(),
            color=FAILED,
            markersize=5,
            label=f"failed ({len(failed_s):,})",
        )
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
        axes.margins(y=0.15)
    axes.set_xlabel("scheduled arrival (s)")
    axes.set_ylabel("latency (ms)")
    legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, fontsize=9, markerscale=1.6)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return png(figure)


def latency_distribution(judged: Sequence[Judged], p95_ms: float) -> bytes:
    """Histogram by variant, and below it the cumulative share of all requests (failures never arrive)."""
    figure = Figure(figsize=(WIDTH_INCHES, 5.4), dpi=DPI, layout="constrained")
    histogram, cumulative = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    good = [item for item in judged if item.error is None]
    latencies_ms = np.array([item.latency_ms for item in good])
    if len(latencies_ms):
        wide = _log_if_wide(histogram.set_xscale, good, p95_ms)
        low, high = float(latencies_ms.min()), max(float(latencies_ms.max()), p95_ms)
        bins = np.geomspace(max(low, 1e-3), high, 61) if wide else np.linspace(0, high, 61)
        colours = _colours(good)
        histogram.hist(
            [[item.latency_ms for item in good if item.variant == variant] for variant in colours],
            bins=bins.tolist(),
            stacked=True,
            color=list(colours.values()),
            label=[_named(variant) for variant in colours],
        )
        ordered = np.sort(latencies_ms)
        cumulative.step(ordered, np.arange(1, len(ordered) + 1) / len(judged) * 100, where="post", color="#222222")
    for axes in (histogram, cumulative):
        clean(axes)
        axes.axvline(p95_ms, color=OBJECTIVE, linestyle="--", linewidth=1, label=f"objective {p95_ms:g} ms")
    p95 = quantile([item.latency_ms for item in judged], 0.95)
    cumulative.axhline(95, color="#999999", linestyle=":", linewidth=1)
    if np.isfinite(p95):
        cumulative.plot([p95], [95], "o", color=FAILED, markersize=6, label=f"p95 {p95:.3g} ms")
    cumulative.set_ylim(0, 102)
    cumulative.set_ylabel("% of all requests\nanswered within")
    cumulative.set_xlabel("latency (ms)")
    cumulative.legend(loc="lower right", frameon=False, fontsize=9)
    histogram.set_ylabel("requests")
    histogram.legend(loc="upper right", frameon=False, fontsize=9)
    return png(figure)


def route_mix(judged: Sequence[Judged]) -> bytes:
    """Share of requests by variant and reason, failures included."""
    good = [item for item in judged if item.error is None]
    colours = _colours(good)
    routes = Counter((item.variant, item.reason) for item in good).most_common(MAX_ROUTES)
    bars = [(_route(variant, reason), count, colours[variant]) for (variant, reason), count in routes]
    rest = len(good) - sum(count for _, count, _ in bars)
    bars += [("other routes", rest, FURTHER_COLOURS[-1])] if rest else []
    bars += [("failed", len(judged) - len(good), FAILED)] if len(judged) > len(good) else []
    figure, axes = _figure(0.9 + 0.38 * len(bars))
    shares = [count / len(judged) * 100 for _, count, _ in bars]
    drawn = axes.barh([name for name, _, _ in bars], shares, color=[colour for _, _, colour in bars], height=0.62)
    axes.bar_label(
        drawn,
        labels=[f"{share:.1f} %  ({count:,})" for share, (_, count, _) in zip(shares, bars, strict=True)],
        padding=5,
        fontsize=9,
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% of requests")
    return png(figure)


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    clean(axes)
    return figure, axes


def clean(axes: Axes) -> None:
    """The look that all figures share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)


def _log_if_wide(set_scale: Callable[[str], None], good: Sequence[Judged], p95_ms: float) -> bool:
    """A linear axis as long as it can show the smallest latency and the largest; returns whether it became log."""
    latencies_ms = [item.latency_ms for item in good]
    wide = bool(latencies_ms) and max([*latencies_ms, p95_ms]) > 30 * quantile(latencies_ms, 0.5)
    if wide:
        set_scale("log")
    return wide


def _colours(good: Sequence[Judged]) -> dict[str, str]:
    """A colour for each variant, the commonest first."""
    variants = [variant for variant, _ in Counter(item.variant for item in good).most_common()]
    strange = [variant for variant in variants if variant not in COLOUR_OF_VARIANT]
    further = {variant: FURTHER_COLOURS[i % len(FURTHER_COLOURS)] for i, variant in enumerate(strange)}
    return {variant: (COLOUR_OF_VARIANT | further)[variant] for variant in variants}


def _named(variant: str) -> str:
    return "answered" if variant == UNKNOWN else literal(variant)


def _route(variant: str, reason: str) -> str:
    return _named(variant) if reason == UNKNOWN else f"{_named(variant)}: {literal(reason)}"


def literal(text: str) -> str:
    """Text of the endpoint's as it is: without it, a dollar sign would start a formula."""
    return text[:60].replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """The figure as a file, with plain numbers on its logarithmic axes."""
    for axes in figure.axes:
        for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
            if scale == "log":
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png")
    return file.getvalue()
