"""Timeline: a run cut into windows of equal length, by the time at which each request was due."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.summary import UNKNOWN, Judged, quantile

# More windows than this cannot be told apart in a figure.
MAX_WINDOWS = 180
# The share of requests that may take other routes where all is calm.
CALM_TOLERANCE = 0.1


@dataclass(frozen=True)
class Window:
    """Requests that were due from `start_s` on; latencies are infinite where that quantile is a failed request.

    `good` were answered within the objective, `late` after it, `failed` not at all (a shed request among them): late
    and failed are violations. `accuracy` is of the rows that were answered, None where there are none.
    """

    start_s: float
    width_s: float
    requests: int
    good: int
    late: int
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    routes: dict[str, int]
    accuracy: float | None

    @property
    def goodput(self) -> float:
        """Answers within the objective, a second."""
        return self.good / self.width_s


def route_name(item: Judged) -> str:
    """Who answered and why, in few words."""
    if item.error is not None:
        return "failed"
    if item.variant == UNKNOWN:
        return "answered"
    return item.variant if item.reason == UNKNOWN else f"{item.variant}: {item.reason}"


def timeline(judged: Sequence[Judged], duration_s: float, objective_ms: float, width_s: float = 1.0) -> list[Window]:
    """Windows of at least `width_s` that cover [0, duration_s); those in which nothing was due are left out."""
    width_s = max(width_s, duration_s / MAX_WINDOWS)
    cut: dict[int, list[Judged]] = {}
    for item in judged:
        cut.setdefault(int(item.scheduled_s // width_s), []).append(item)
    return [_window(number * width_s, width_s, cut[number], objective_ms) for number in sorted(cut)]


def _window(start_s: float, width_s: float, items: Sequence[Judged], objective_ms: float) -> Window:
    latencies_ms = sorted(item.latency_ms for item in items)
    failed = sum(item.error is not None for item in items)
    good = sum(item.error is None and item.latency_ms <= objective_ms for item in items)
    rows = sum(item.rows for item in items)
    p50_ms, p95_ms, p99_ms = (quantile(latencies_ms, q) for q in (0.5, 0.95, 0.99))
    return Window(
        start_s=start_s,
        width_s=width_s,
        requests=len(items),
        good=good,
        late=len(items) - good - failed,
        failed=failed,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        routes=dict(Counter(route_name(item) for item in items).most_common()),
        accuracy=sum(item.correct for item in items) / rows if rows else None,
    )


def violations(judged: Sequence[Judged], objective_ms: float) -> int:
    """Requests that were not answered well within the objective; shed ones count."""
    return sum(not (item.error is None and item.latency_ms <= objective_ms) for item in judged)


def seconds_until_calm(
    windows: Sequence[Window], since_s: float, calm: Sequence[str], tolerance: float = CALM_TOLERANCE
) -> float:
    """Seconds from `since_s` to the first window in and from which at most `tolerance` go other ways than `calm`.

    Infinite where there is none. From which on, and not in each window: two arrivals may always meet at a server that
    is far from full, and of the few requests of one window that is a large share.
    """
    after = [window for window in windows if window.start_s + window.width_s > since_s]
    ends_s = [since_s, *(window.start_s + window.width_s for window in after)]
    calm_s, requests, others = math.inf, 0, 0
    for window, before_s in zip(reversed(after), reversed(ends_s[:-1]), strict=True):
        elsewhere = sum(count for route, count in window.routes.items() if route not in calm)
        requests, others = requests + window.requests, others + elsewhere
        if elsewhere <= tolerance * window.requests and others <= tolerance * requests:
            calm_s = before_s - since_s
    return calm_s
