"""Serve's own latency histograms, fed with a sample.

Serve observes each request twice, on the replica's event loop, and Ray's agent replays every observation one by one:
together they took more time than parsing and answering a request did. The endpoint counts all requests itself
(`meter.py`); Serve's histograms, which Ray's dashboards show, keep their quantiles with a few observations a second.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

OBSERVATIONS_PER_S = 50.0


class Allowance:
    """So many a second, and those of one second at once."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._left = per_s
        self._since = clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._per_s, self._left + (now - self._since) * self._per_s)
        self._since = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def sample_histograms(histogram: Any = None, per_s: float = OBSERVATIONS_PER_S) -> None:
    """From now on each histogram of this process that `ray.serve.metrics` made takes no more than `per_s`."""
    if histogram is None:
        from ray.serve import metrics

        histogram = metrics.Histogram
    observe = histogram.observe
    if getattr(observe, "sampled", False):
        return

    def observe_some(self: Any, value: float, tags: Mapping[str, str] | None = None) -> None:
        allowance = self.__dict__.get("_allowance")
        if allowance is None:
            allowance = self._allowance = Allowance(per_s)
        if allowance.take():
            observe(self, value, tags)

    observe_some.sampled = True  # type: ignore[attr-defined]
    histogram.observe = observe_some
