"""What an endpoint counted of itself: Prometheus text read before and after a run, and what happened between.

Histograms are read as Prometheus reads them: `quantile` is `histogram_quantile` over the increase of the buckets.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

# A sample's name and its labels.
Series = tuple[str, frozenset[tuple[str, str]]]

MAX_TEXT_BYTES = 50_000_000


class MetricsError(RuntimeError):
    """Metrics that cannot be read."""


@dataclass(frozen=True)
class Snapshot:
    """All samples at `taken_s`, on the clock of time.monotonic."""

    taken_s: float
    samples: Mapping[Series, float]


def parse(text: str, taken_s: float) -> Snapshot:
    """Raises MetricsError where `text` is not Prometheus' format."""
    try:
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except ValueError as error:
        raise MetricsError(f"this is not Prometheus' text format: {error}") from error
    return Snapshot(taken_s, samples)


def discover(path: Path) -> list[str]:
    """The URLs in Ray's service discovery file, `prom_metrics_service_discovery.json` in its temporary folder."""
    try:
        groups = json.loads(path.read_text())
        return [f"http://{target}/metrics" for group in groups for target in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricsError(f"{path} is no service discovery file: {error}") from error


def fetch(urls: Sequence[str], timeout_s: float = 10.0) -> Snapshot:
    """One snapshot of all `urls`, whose series must differ. Raises MetricsError where one of them does not answer."""
    opener = build_opener(ProxyHandler({}))
    samples: dict[Series, float] = {}
    taken_s = time.monotonic()
    for url in urls:
        try:
            with opener.open(url, timeout=timeout_s) as response:
                text = response.read(MAX_TEXT_BYTES).decode()
        except (URLError, OSError, UnicodeDecodeError) as error:
            raise MetricsError(f"no metrics from {url}: {error}") from error
        samples |= parse(text, taken_s).samples
    return Snapshot(taken_s, samples)


@dataclass(frozen=True)
class Window:
    """What changed from `before` to `after`. Labels that are not named are summed over."""

    before: Snapshot
    after: Snapshot

    @property
    def seconds(self) -> float:
        return self.after.taken_s - self.before.taken_s

    def increase(self, name: str, **labels: str) -> float:
        """Of a counter; one that is lower than before has been started anew from 0, as Prometheus takes it."""
        return math.fsum(grown for _, grown in self._grown(name, labels))

    def rate(self, name: str, **labels: str) -> float:
        """A second."""
        return self.increase(name, **labels) / self.seconds

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The increase by value of `label`; values without one are left out."""
        grown: dict[str, float] = {}
        for found, increase in self._grown(name, labels):
            value = found.get(label, "")
            grown[value] = grown.get(value, 0.0) + increase
        return {value: increase for value, increase in sorted(grown.items()) if increase > 0}

    def mean(self, name: str, **labels: str) -> float | None:
        """Of a histogram; None where it counted nothing."""
        count = self.increase(f"{name}_count", **labels)
        return self.increase(f"{name}_sum", **labels) / count if count else None

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Of a histogram, by linear interpolation in the bucket, as `histogram_quantile` does.

        None where it counted nothing; the highest edge where the quantile lies above it.
        """
        counts: dict[float, float] = {}
        for found, increase in self._grown(f"{name}_bucket", labels):
            edge = float(found["le"])
            counts[edge] = counts.get(edge, 0.0) + increase
        return _quantile(q, sorted(counts.items()))

    def _grown(self, name: str, labels: Mapping[str, str]) -> Iterable[tuple[dict[str, str], float]]:
        for (found_name, found_labels), value in self.after.samples.items():
            if found_name == name and found_labels >= labels.items():
                earlier = self.before.samples.get((found_name, found_labels), 0.0)
                yield dict(found_labels), value if value < earlier else value - earlier


def level(snapshot: Snapshot, name: str, **labels: str) -> float:
    """The sum of a gauge over its series; 0 where there is none."""
    wanted = labels.items()
    return math.fsum(value for (found, has), value in snapshot.samples.items() if found == name and has >= wanted)


def _quantile(q: float, cumulative: Sequence[tuple[float, float]]) -> float | None:
    if not cumulative or cumulative[-1][1] <= 0:
        return None
    rank = q * cumulative[-1][1]
    low_edge, below = 0.0, 0.0
    for edge, count in cumulative:
        if count >= rank and count > below:
            if math.isinf(edge):
                return low_edge
            return low_edge + (edge - low_edge) * (rank - below) / (count - below)
        low_edge, below = edge, count
    return low_edge
