"""Exporter: carries what a process counted to Ray's metrics exporter, which serves Prometheus for a whole node.

Ray's own Histogram is not used: it costs a call an observation here, is replayed one by one in the node's agent (3 and
11 us each were measured) and arrives with an approximated sum. Bucket counts are exported as they stand, as `_bucket`
with `le`, `_sum` and `_count`, which is all that `histogram_quantile` asks for; Prometheus calls them gauges and does
not mind.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Protocol

from apps.observe.serve_histograms import sample_histograms
from apps.observe.tally import Cell, Counts, Distributions, Key, Levels

logger = logging.getLogger("ray.serve")

FLUSH_S = 1.0
# What has not changed is told again at every second flush: Ray forgets a gauge that nobody sets for two of its report
# intervals, and the shortest of those is a second.
REFRESH_S = 1.5
# Then the thread gives way to the event loop, which would else wait for it.
_CALLS_A_TURN = 16


class Source(Protocol):
    """The numbers of one model."""

    @property
    def model(self) -> str: ...
    @property
    def families(self) -> Iterable[Counts | Levels | Distributions]: ...


class Sink(Protocol):
    """Where numbers go: Ray's metrics, or a test's list."""

    def grow(self, name: str, description: str, tags: Mapping[str, str], amount: float) -> None: ...

    def set(self, name: str, description: str, tags: Mapping[str, str], value: float) -> None: ...


class RaySink:
    """`ray.serve.metrics`, which add the application, the deployment and the replica. Names get the prefix `ray_`.

    Serve's own histograms get a sample from then on.
    """

    def __init__(self) -> None:
        sample_histograms()
        self._counters: dict[str, Any] = {}
        self._gauges: dict[str, Any] = {}

    def grow(self, name: str, description: str, tags: Mapping[str, str], amount: float) -> None:
        counter = self._counters.get(name)
        if counter is None:
            from ray.serve import metrics

            # Ray's wrapper is annotated with a tuple of one key; it takes any number.
            keys: Any = tuple(tags)
            counter = self._counters[name] = metrics.Counter(name, description, tag_keys=keys)
        counter.inc(amount, tags=dict(tags))

    def set(self, name: str, description: str, tags: Mapping[str, str], value: float) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            from ray.serve import metrics

            keys: Any = tuple(tags)
            gauge = self._gauges[name] = metrics.Gauge(name, description, tag_keys=keys)
        gauge.set(value, tags=dict(tags))


class Exporter:
    """One a process; `start` begins to flush every second, from a thread."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._sources: list[Source] = []
        # What was last told of each series, by model, family and label values.
        self._told: dict[tuple[str, str, Key], object] = {}
        self._refreshed_s = 0.0
        self._calls = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, source: Source) -> None:
        self._sources.append(source)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Flush a last time and end the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def flush(self, refresh: bool = False) -> None:
        """Tell what changed since the last time; with `refresh` all gauges. From one thread at a time."""
        for source in tuple(self._sources):
            for family in source.families:
                # A copy, since the event loop may add a cell at any moment.
                for key, cell in family.cells.copy().items():
                    self._tell(source.model, family, key, cell, refresh)

    def _work(self) -> None:
        while not self._closing.wait(FLUSH_S):
            now = time.monotonic()
            refresh = now - self._refreshed_s >= REFRESH_S
            if refresh:
                self._refreshed_s = now
            self._try_flush(refresh)
        self._try_flush(True)

    def _try_flush(self, refresh: bool) -> None:
        try:
            self.flush(refresh)
        except Exception:  # counting must never end what is counted
            logger.exception("the metrics of this replica could not be exported")

    def _tell(
        self, model: str, family: Counts | Levels | Distributions, key: Key, cell: float | Cell, refresh: bool
    ) -> None:
        place = (model, family.name, key)
        told = self._told.get(place)
        now = cell if not isinstance(cell, Cell) else (tuple(cell.buckets), cell.total)
        if now == told and (isinstance(family, Counts) or not refresh):
            return
        self._told[place] = now
        tags = {"model": model, **dict(zip(family.labels, map(str, key), strict=True))}
        for name, tags_of_it, value in _readings(family, tags, now):
            self._calls += 1
            if self._calls % _CALLS_A_TURN == 0:
                time.sleep(0)
            if isinstance(family, Counts):
                before = told if isinstance(told, int | float) else 0
                self._sink.grow(name, family.description, tags_of_it, value - before)
            else:
                self._sink.set(name, family.description, tags_of_it, value)


def _readings(
    family: Counts | Levels | Distributions, tags: Mapping[str, str], now: float | tuple[tuple[int, ...], float]
) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Name, tags and value of every series of one cell."""
    if not isinstance(now, tuple):
        yield family.name, tags, now
        return
    assert isinstance(family, Distributions)
    buckets, total = now
    edges = (*(f"{edge:g}" for edge in family.edges), "+Inf")
    for edge, count in zip(edges, accumulate(buckets), strict=True):
        yield f"{family.name}_bucket", {**tags, "le": edge}, count
    yield f"{family.name}_sum", tags, total
    yield f"{family.name}_count", tags, sum(buckets)
