"""Measure: latency of Runners against each other, and how far two of them differ.

What is compared is measured in one run: every round calls every Runner, in an order that rotates, so
that a slow second of a shared machine falls on all of them and the ratios within a round stay fair.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from optimization.cpu import read_cpu
from training.encoding import Array

# Instructions that decide how fast low-precision arithmetic is.
NOTABLE_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
LIBRARIES = ("numpy", "torch", "onnxruntime")


@dataclass(frozen=True)
class BatchLatency:
    """Latency of one call at one batch size: percentiles over all calls, and the median of each round."""

    batch_size: int
    p50_ms: float
    p95_ms: float
    round_p50_ms: tuple[float, ...]
    calls: int

    @property
    def spread_ms(self) -> tuple[float, float]:
        """The fastest and the slowest round's median."""
        return min(self.round_p50_ms), max(self.round_p50_ms)


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
        return [{**asdict(batch), "spread_ms": batch.spread_ms} for batch in self.batches]


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


@dataclass(frozen=True)
class Host:
    """What a latency was measured on; `threads` is what each Runner was allowed, `cores` what the process may use."""

    cpu: str
    instructions: tuple[str, ...]
    cores: int
    threads: int
    system: str
    python: str
    libraries: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "libraries": dict(self.libraries)}


@dataclass(frozen=True)
class Parity:
    """How far a candidate's logits are from its reference's on the same rows.

    `flips` counts the rows whose predicted class differs at any batch size; `max_abs_diff` is the
    largest difference of one logit, infinite where the candidate's is not finite.
    """

    max_abs_diff: float
    flips: int
    rows: int

    @property
    def flip_rate(self) -> float:
        return self.flips / self.rows


def measure_latency(
    runners: Mapping[str, Callable[[Array], Array]],
    batch_of: Callable[[int], Array],
    batch_sizes: Sequence[int] = (1, 8),
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
        shift = turn % len(names)
        for size, batch in batches.items():
            for name in names[shift:] + names[:shift]:
                taken_ns[name, size].append(_time_calls(runners[name], batch, calls))
    return {
        name: Latency(tuple(_summarize(size, np.array(taken_ns[name, size])) for size in batches)) for name in names
    }


def speedup(reference: Latency, candidate: Latency, batch_size: int, confidence: float = 0.95) -> Speedup:
    """How many times faster `candidate` is; both must come from one `measure_latency` run."""
    before, after = reference.at(batch_size).round_p50_ms, candidate.at(batch_size).round_p50_ms
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} rounds cannot be paired: measure both in one run")
    ratios = np.sort(np.array(before) / np.array(after))
    lower, upper = _median_interval(ratios, confidence)
    return Speedup(batch_size, float(np.median(ratios)), lower, upper, len(ratios), confidence)


def parity(
    reference: Callable[[Array], Array],
    candidate: Callable[[Array], Array],
    inputs: Array,
    batch_sizes: Sequence[int] = (1, 8),
) -> Parity:
    """Runs both over all `inputs`, cut into each of `batch_sizes`, and compares the logits row by row."""
    if not len(inputs) or min(batch_sizes, default=0) < 1:
        raise ValueError(f"{len(inputs)} rows at batch sizes {list(batch_sizes)}: parity needs rows and sizes above 0")
    largest = 0.0
    flipped = np.zeros(len(inputs), dtype=np.bool_)
    for size in batch_sizes:
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            want, got = (np.asarray(runner(batch), dtype=np.float64) for runner in (reference, candidate))
            if want.shape != got.shape:
                raise ValueError(f"the reference answers {want.shape}, the candidate {got.shape}: no parity to measure")
            difference = np.abs(want - got)
            largest = max(largest, float(np.where(np.isfinite(difference), difference, np.inf).max()))
            flipped[start : start + size] |= want.argmax(axis=1) != got.argmax(axis=1)
    return Parity(largest, int(flipped.sum()), len(inputs))


def describe_host(threads: int, libraries: Sequence[str] = LIBRARIES) -> Host:
    """This host, with the installed versions of `libraries` (those missing are left out)."""
    model, flags = read_cpu()
    versions = []
    for library in libraries:
        try:
            versions.append((library, metadata.version(library)))
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Host(
        cpu=model,
        instructions=tuple(name for name in NOTABLE_INSTRUCTIONS if name in flags),
        cores=cores,
        threads=threads,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        libraries=tuple(versions),
    )


def _time_calls(runner: Callable[[Array], Array], batch: Array, calls: int) -> list[int]:
    taken_ns = []
    for _ in range(calls):
        start_ns = time.perf_counter_ns()
        runner(batch)
        taken_ns.append(time.perf_counter_ns() - start_ns)
    return taken_ns


def _summarize(batch_size: int, taken_ns: Array) -> BatchLatency:
    taken_ms = taken_ns / 1e6
    p50_ms, p95_ms = np.percentile(taken_ms, [50, 95])
    rounds = tuple(float(value) for value in np.median(taken_ms, axis=1))
    return BatchLatency(batch_size, float(p50_ms), float(p95_ms), rounds, taken_ms.size)


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
