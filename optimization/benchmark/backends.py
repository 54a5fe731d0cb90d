"""`python -m optimization.benchmark.backends FOLDER...`: Artifacts on every backend of this machine, side by side.

Each folder holds one Artifact. All that run are timed in interleaved rounds; what does not run is told with its reason.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from optimization.measure.host import Host, describe_host
from optimization.measure.latency import Latency, measure_latency
from optimization.measure.parity import parity
from optimization.runners.contract import Runner, RunnerError
from optimization.runners.names import BACKENDS, Backend
from optimization.runners.open import open_runner
from training.artifact import Artifact, ArtifactError, load_artifact
from training.encoding import Array, TextEncoding

PARITY_ROWS = 32
SEED = 0


@dataclass(frozen=True)
class Entry:
    """One Artifact on one backend; `latency` and the rest are None where it does not run, for the `reason` given.

    `open_s` is the time to open it, with what had to be compiled. `max_abs_diff` is how far its logits are from those
    of the first entry that runs.
    """

    variant: str
    backend: Backend
    reason: str | None
    device: str | None = None
    precision: str | None = None
    open_s: float | None = None
    latency: Latency | None = None
    max_abs_diff: float | None = None

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**data, "latency": self.latency.to_json() if self.latency else None}


@dataclass(frozen=True)
class _Opened:
    artifact: Artifact
    backend: Backend
    runner: Runner
    open_s: float


def compare_backends(
    artifacts: Sequence[Artifact],
    backends: Sequence[Backend] = BACKENDS,
    threads: int = 1,
    batch_sizes: Sequence[int] = (1, 8),
    cache_dir: Path | None = None,
    rounds: int = 12,
) -> list[Entry]:
    """Every Artifact on every backend that takes its format. Raises ValueError where none of them runs.

    All are given the same random rows, which must be of one kind for all the Artifacts.
    """
    opened, absent = _open_all(artifacts, backends, threads, cache_dir)
    if not opened:
        raise ValueError("nothing runs: " + "; ".join(f"{entry.backend}: {entry.reason}" for entry in absent))
    rows = sample_rows(artifacts[0], max(PARITY_ROWS, *batch_sizes))
    runners = {f"{each.artifact.digest} {each.backend}": each.runner for each in opened}
    latencies = measure_latency(runners, lambda size: rows[:size], batch_sizes, rounds)
    reference = opened[0].runner
    entries = [
        Entry(
            each.artifact.manifest.variant,
            each.backend,
            None,
            each.runner.device,
            each.runner.precision,
            each.open_s,
            latencies[key],
            parity(reference, each.runner, rows[:PARITY_ROWS], batch_sizes).max_abs_diff,
        )
        for each, key in zip(opened, runners, strict=True)
    ]
    return entries + absent


def sample_rows(artifact: Artifact, rows: int) -> Array:
    """Random pixels, or tokens at full length without padding; always the same."""
    random, manifest = np.random.default_rng(SEED), artifact.manifest
    if isinstance(manifest.encoding, TextEncoding):
        length = manifest.encoding.max_tokens
        return np.full((rows, length), 1 if manifest.encoding.pad_id == 0 else 0, manifest.input.dtype)
    return random.integers(0, 256, (rows, *manifest.input.shape[1:])).astype(manifest.input.dtype)


def _open_all(
    artifacts: Sequence[Artifact], backends: Sequence[Backend], threads: int, cache_dir: Path | None
) -> tuple[list[_Opened], list[Entry]]:
    opened, absent = [], []
    for artifact in artifacts:
        for backend in backends:
            if backend.startswith(("onnxruntime", "tensorrt")) != (artifact.manifest.format == "onnx"):
                continue
            began = time.perf_counter()
            try:
                runner = open_runner(artifact, threads, backend, cache_dir=cache_dir)
            except RunnerError as error:
                absent.append(Entry(artifact.manifest.variant, backend, str(error)))
                continue
            opened.append(_Opened(artifact, backend, runner, time.perf_counter() - began))
    return opened, absent


def table(entries: Sequence[Entry], host: Host) -> Table:
    """What runs, a line each; raises ValueError where nothing does."""
    shown = Table(title=f"{host.cpu}, {host.threads} thread(s), {', '.join(' '.join(pair) for pair in host.libraries)}")
    measured = [entry.latency for entry in entries if entry.latency]
    if not measured:
        raise ValueError("nothing was measured")
    sizes = [batch.batch_size for batch in measured[0].batches]
    columns = [f"ms at batch {size}: p50 (rounds), p95" for size in sizes]
    for name in ("variant", "backend", "device", "precision", "opened in s", *columns, "logits differ by"):
        shown.add_column(name, overflow="fold")
    for entry in entries:
        if entry.latency is None:
            continue
        times = [
            f"{batch.p50_ms:.3f} ({batch.spread_ms[0]:.3f}-{batch.spread_ms[1]:.3f}), {batch.p95_ms:.3f}"
            for batch in entry.latency.batches
        ]
        told = (entry.device, entry.precision, f"{entry.open_s:.2f}", *times, f"{entry.max_abs_diff:.1g}")
        shown.add_row(entry.variant, entry.backend, *told)
    return shown


def absences(entries: Sequence[Entry]) -> list[str]:
    """A sentence a reason for what does not run."""
    found: dict[tuple[Backend, str], list[str]] = {}
    for entry in entries:
        if entry.reason is not None:
            found.setdefault((entry.backend, entry.reason), []).append(entry.variant)
    return [f"{backend} does not run {', '.join(names)}: {reason}" for (backend, reason), names in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="optimization.benchmark.backends", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a folder that holds an Artifact")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="only this one (may be repeated)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--cache-dir", type=Path, help="where compiled code is kept (default: ~/.cache/tandem/native)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    given = parser.parse_args()
    try:
        artifacts = [load_artifact(folder) for folder in given.folders]
        entries = compare_backends(artifacts, given.backend or BACKENDS, given.threads, given.batch, given.cache_dir)
    except (ArtifactError, ValueError) as error:
        sys.exit(f"optimization.benchmark.backends: {error}")
    host = describe_host(given.threads)
    if given.json:
        figures = {"host": host.to_json(), "entries": [entry.to_json() for entry in entries]}
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    Console().print(table(entries, host))
    for sentence in absences(entries):
        print(sentence)


if __name__ == "__main__":
    main()
