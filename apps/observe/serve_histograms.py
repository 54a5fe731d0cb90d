"""Serve's own latency histograms, fed with a sample.

Serve observes each request twice, on the replica's event loop, and Ray's agent replays every observation one by one:
together they took more time than parsing and answering a request did. The endpoint counts all requests itself
(`meter.py`); Serve's histograms, which Ray's dashboards show, keep their quantiles with a few observations a second.
"""

from collections.abc import Mapping
from typing import Any

from apps.access.rate_limit import TokenBucket

OBSERVATIONS_PER_S = 50.0


def sample_histograms(histogram: Any = None, per_s: float = OBSERVATIONS_PER_S) -> None:
    """From now on each histogram of this process that `ray.serve.metrics` made takes no more than `per_s`."""
    if histogram is None:
        from ray.serve import metrics

        histogram = metrics.Histogram
    observe = histogram.observe
    if getattr(observe, "sampled", False):
        return

    def observe_some(self: Any, value: float, tags: Mapping[str, str] | None = None) -> None:
        bucket = self.__dict__.get("_bucket")
        if bucket is None:
            bucket = self._bucket = TokenBucket(per_s, per_s)
        if bucket.take() == 0:
            observe(self, value, tags)

    observe_some.sampled = True  # type: ignore[attr-defined]
    histogram.observe = observe_some
