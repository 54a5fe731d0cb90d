"""Latency: how long Runners take, against each other.

What is compared is measured in one run: every round calls every Runner, in an order that rotates, so
that a slow second of a shared machine falls on all of them and the ratios within a round stay fair.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.encoding import Array

BATCH_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class BatchLatency:
    """Latency of one call at one batch size: percentiles over all calls, and the median of each round.

    `mean_ms` is over all calls too, so that what the slow ones cost is in the throughput.
    """

    batch_size: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    round_p50_ms: tuple[float, ...]
    calls: int

    @property
    def spread_ms(self) -> tuple[float, float]:
        """The fastest and the slowest round's median."""
        return min(self.round_p50_ms), max(self.round_p50_ms)

    @property
    def rows_per_s(self) -> float:
        """Throughput of one caller that sends the next batch when it has its answer."""
        return self.batch_size * 1e3 / self.mean_ms


@dataclass(frozen=True)
class Latency:
    """Latency of one Runner at each batch size measured."""

    batches: tuple[BatchLatency, ...]

    def at(self, batch_size: int) -> BatchLatency:
        for batch in self.batches:
            if batch.batch_size == batch_size:
                return batch
        measured = ", ".join(str(batch.batch_size) for batch in self.batches)
        raise ValueError(f"batch size {batch_size} was not measured; {measured} were")

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {**asdict(batch), "spread_ms": batch.spread_ms, "rows_per_s": batch.rows_per_s} for batch in self.batches
        ]

    @staticmethod
    def from_json(data: Sequence[Mapping[str, Any]]) -> "Latency":
        return Latency(tuple(_batch(batch) for batch in data))


@dataclass(frozen=True)
class ItemTime:
    """Milliseconds a row of a stream of rows, by rounds: what a pair costs, whose every row takes another way."""

    round_ms: tuple[float, ...]
    rows: int
    batch_size: int

    @property
    def median_ms(self) -> float:
        return float(np.median(self.round_ms))

    @property
    def spread_ms(self) -> tuple[float, float]:
        return min(self.round_ms), max(self.round_ms)


@dataclass(frozen=True)
class Speedup:
    """How many times faster a candidate is than its reference: the median over rounds of the rounds' ratios.

    `lower` and `upper` are the distribution-free interval of that median from order statistics, at
    `confidence` or above; too few rounds leave it unbounded (0 and infinity).
    """

    batch_size: int
    ratio: float
    lower: float
    upper: float
    rounds: int
    confidence: float

    @property
    def is_faster(self) -> bool:
        """An interval that includes 1 is no speed-up."""
        return self.lower > 1.0

    @property
    def is_slower(self) -> bool:
        return self.upper < 1.0


def measure_latency(
    runners: Mapping[str, Callable[[Array], Array]],
    batch_of: Callable[[int], Array],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = 12,
    calls: int = 15,
    warmup: int = 5,
) -> dict[str, Latency]:
    """Latency of each Runner by name, over `rounds` interleaved rounds of `calls` calls a batch size.

    `batch_of(n)` makes the batch of n rows that all of them get; the clock covers the call alone.
    """
    if not runners or rounds < 1 or calls < 1 or min(batch_sizes, default=0) < 1:
        raise ValueError(
            f"{len(runners)} runners, {rounds} rounds, {calls} calls, batch sizes {list(batch_sizes)}: "
            "give at least one of each, all above 0"
        )
    batches = {size: batch_of(size) for size in batch_sizes}
    taken_ns: dict[tuple[str, int], list[list[int]]] = {(name, size): [] for name in runners for size in batches}
    for runner in runners.values():
        for batch in batches.values():
            _time_calls(runner, batch, warmup)
    names = list(runners)
    for turn in range(rounds):
        for size, batch in batches.items():
            for name in _rotated(names, turn):
                taken_ns[name, size].append(_time_calls(runners[name], batch, calls))
    return {
        name: Latency(tuple(_summarize(size, np.array(taken_ns[name, size])) for size in batches)) for name in names
    }


def measure_stream(
    runners: Mapping[str, Callable[[Array], Array]], inputs: Array, batch_size: int = 1, rounds: int = 12
) -> dict[str, ItemTime]:
    """Time a row of each Runner by name, over interleaved rounds of all `inputs` [N, ...], `batch_size` rows a call.

    A round before the first is the warm-up. For what does not take the same time for every row.
    """
    if not runners or rounds < 1 or batch_size < 1 or len(inputs) < batch_size:
        raise ValueError(
            f"{len(runners)} runners, {rounds} rounds, {len(inputs)} rows in batches of {batch_size}: "
            "give at least one of each, and a whole batch"
        )
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    names = list(runners)
    taken_ms: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        _time_stream(runners[name], batches)
    for turn in range(rounds):
        for name in _rotated(names, turn):
            taken_ms[name].append(_time_stream(runners[name], batches) / 1e6 / len(inputs))
    return {name: ItemTime(tuple(taken_ms[name]), len(inputs), batch_size) for name in names}


def speedup(reference: Latency, candidate: Latency, batch_size: int, confidence: float = 0.95) -> Speedup:
    """How many times faster `candidate` is; both must come from one `measure_latency` run."""
    before, after = reference.at(batch_size).round_p50_ms, candidate.at(batch_size).round_p50_ms
    return _speedup(before, after, batch_size, confidence)


def stream_speedup(reference: ItemTime, candidate: ItemTime, confidence: float = 0.95) -> Speedup:
    """How many times faster `candidate` is; both must come from one `measure_stream` run."""
    if (reference.rows, reference.batch_size) != (candidate.rows, candidate.batch_size):
        raise ValueError(
            f"{reference.rows} rows by {reference.batch_size} and {candidate.rows} by {candidate.batch_size} cannot be "
            "compared: measure both in one run"
        )
    return _speedup(reference.round_ms, candidate.round_ms, reference.batch_size, confidence)


def _speedup(before: Sequence[float], after: Sequence[float], batch_size: int, confidence: float) -> Speedup:
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} rounds cannot be paired: measure both in one run")
    ratios = np.sort(np.array(before) / np.array(after))
    lower, upper = _median_interval(ratios, confidence)
    return Speedup(batch_size, float(np.median(ratios)), lower, upper, len(ratios), confidence)


def _batch(data: Mapping[str, Any]) -> BatchLatency:
    """What `Latency.to_json` wrote of one batch size, without what follows from the rest."""
    fields = {key: value for key, value in data.items() if key in BatchLatency.__dataclass_fields__}
    fields["round_p50_ms"] = tuple(fields["round_p50_ms"])
    return BatchLatency(**fields)


def _rotated(names: list[str], turn: int) -> list[str]:
    shift = turn % len(names)
    return names[shift:] + names[:shift]


def _time_calls(runner: Callable[[Array], Array], batch: Array, calls: int) -> list[int]:
    taken_ns = []
    for _ in range(calls):
        start_ns = time.perf_counter_ns()
        runner(batch)
        taken_ns.append(time.perf_counter_ns() - start_ns)
    return taken_ns


def _time_stream(runner: Callable[[Array], Array], batches: Sequence[Array]) -> int:
    start_ns = time.perf_counter_ns()
    for batch in batches:
        runner(batch)
    return time.perf_counter_ns() - start_ns


def _summarize(batch_size: int, taken_ns: Array) -> BatchLatency:
    taken_ms = taken_ns / 1e6
    p50_ms, p95_ms, p99_ms = (float(value) for value in np.percentile(taken_ms, [50, 95, 99]))
    rounds = tuple(float(value) for value in np.median(taken_ms, axis=1))
    return BatchLatency(batch_size, p50_ms, p95_ms, p99_ms, float(taken_ms.mean()), rounds, taken_ms.size)


def _median_interval(ordered: Array, confidence: float) -> tuple[float, float]:
    """The k-th smallest and k-th largest value, for the largest k whose interval keeps `confidence`."""
    from scipy.stats import binom

    # The median lies below the k-th smallest of n values when fewer than k of n fair coins fall heads.
    tail = (1 - confidence) / 2
    below = int(binom.ppf(tail, len(ordered), 0.5))
    k = below if binom.cdf(below - 1, len(ordered), 0.5) <= tail else below - 1
    if k < 1:
        return 0.0, float("inf")
    return float(ordered[k - 1]), float(ordered[-k])
