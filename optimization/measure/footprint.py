"""Footprint: size on disk, memory, start-up time and latency of a Runner, each in a process of its own.

`python -m optimization.measure.footprint FOLDER` measures the Artifact in FOLDER once and prints one line of JSON: that
process imports nothing heavy before it opens the Runner, so what it grows by is the Runner's doing. `measure_footprint`
starts such processes.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimization.measure.batches import sample_batch
from optimization.measure.latency import BATCH_SIZES
from training.artifact import Artifact, load_artifact
from training.encoding import Array

REPEATS = 3
CALLS = 60
WITHIN_S = 300.0


class FootprintError(ValueError):
    """The process that was to measure a Runner did not come to its end."""


@dataclass(frozen=True)
class Footprint:
    """One Runner on its own; medians over `repeats` fresh processes, `start_range_s` the fastest and the slowest.

    `size_bytes` is the model file's. `peak_bytes` is how much memory (resident set) the process grew by at most, from
    before the runtime was imported until batches of every size were answered; `copy_bytes` how much one more Runner of
    the same Artifact adds when the runtime is there already. `start_s` is from nothing to the first answer, the import
    of the runtime included, with the files in the page cache; `reopen_s` the same where the runtime is there.
    `answer_ms` is p50 and p95 of a call at each batch size, as a server sees it that has this Runner alone.
    """

    size_bytes: int
    peak_bytes: int
    copy_bytes: int
    start_s: float
    start_range_s: tuple[float, float]
    reopen_s: float
    batch_sizes: tuple[int, ...]
    repeats: int
    answer_ms: tuple[tuple[float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Footprint":
        ranges = {key: tuple(data[key]) for key in ("start_range_s", "batch_sizes")}
        answers = tuple(tuple(pair) for pair in data.get("answer_ms", ()))
        return Footprint(**{**data, **ranges, "answer_ms": answers})


@dataclass(frozen=True)
class _Reading:
    """What one process found."""

    peak_bytes: int
    copy_bytes: int
    start_s: float
    reopen_s: float
    answer_ms: tuple[tuple[float, float], ...]


def measure_footprint(
    folder: Path, threads: int = 1, batch_sizes: Sequence[int] = BATCH_SIZES, repeats: int = REPEATS
) -> Footprint:
    """Of the Artifact in `folder`; raises FootprintError where a process fails, with the end of what it said."""
    if repeats < 1 or min(batch_sizes, default=0) < 1:
        raise ValueError(f"{repeats} repeats at batch sizes {list(batch_sizes)}: give at least one of each, above 0")
    size_bytes = load_artifact(folder).size_bytes  # a broken Artifact is told here, before a process starts
    found = [_run(folder, threads, batch_sizes) for _ in range(repeats)]
    starts = [reading.start_s for reading in found]
    return Footprint(
        size_bytes=size_bytes,
        peak_bytes=round(statistics.median(reading.peak_bytes for reading in found)),
        copy_bytes=round(statistics.median(reading.copy_bytes for reading in found)),
        start_s=statistics.median(starts),
        start_range_s=(min(starts), max(starts)),
        reopen_s=statistics.median(reading.reopen_s for reading in found),
        batch_sizes=tuple(batch_sizes),
        repeats=repeats,
        answer_ms=tuple(
            (statistics.median(p50 for p50, _ in answers), statistics.median(p95 for _, p95 in answers))
            for answers in zip(*(reading.answer_ms for reading in found), strict=True)
        ),
    )


def _run(folder: Path, threads: int, batch_sizes: Sequence[int]) -> _Reading:
    command = [
        *(sys.executable, "-m", "optimization.measure.footprint", str(folder.resolve())),
        *("--threads", str(threads), "--batch-sizes", ",".join(str(size) for size in batch_sizes)),
    ]
    # The child must find our packages wherever this process is run.
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise FootprintError(f"{folder} did not start and answer within {WITHIN_S:.0f} s in a fresh process") from error
    if done.returncode:
        raise FootprintError(f"{folder} failed in a fresh process: {done.stderr.strip()[-600:] or done.returncode}")
    read = json.loads(done.stdout.splitlines()[-1])
    return _Reading(**{**read, "answer_ms": tuple(tuple(pair) for pair in read["answer_ms"])})


def _measure(folder: Path, threads: int, batch_sizes: Sequence[int]) -> _Reading:
    """In this process, which should have done nothing else."""
    artifact = load_artifact(folder)
    batches = [sample_batch(artifact, size) for size in batch_sizes]
    before_bytes = _resident_bytes()
    first, start_s = _started(artifact, threads, batches)
    answer_ms = tuple(_time(first, batch) for batch in batches)
    peak_bytes = _peak_bytes() - before_bytes
    single_bytes = _resident_bytes()
    # Both stay alive while what the second one adds is read.
    second, reopen_s = _started(artifact, threads, batches)
    added_bytes = max(0, _resident_bytes() - single_bytes)
    del first, second
    return _Reading(peak_bytes, added_bytes, start_s, reopen_s, answer_ms)


def _time(runner: Any, batch: Array) -> tuple[float, float]:
    """p50 and p95 of a call in milliseconds."""
    taken_ms = []
    for _ in range(CALLS):
        began_s = time.perf_counter()
        runner(batch)
        taken_ms.append(1e3 * (time.perf_counter() - began_s))
    p50_ms, *_, p95_ms = (statistics.quantiles(taken_ms, n=20)[index] for index in (9, 18))
    return p50_ms, p95_ms


def _started(artifact: Artifact, threads: int, batches: Sequence[Array]) -> tuple[Any, float]:
    """A Runner that has answered all `batches`, and the seconds to its first answer, the runtime's import included."""
    began_s = time.perf_counter()
    from optimization.runners.open import open_runner

    runner = open_runner(artifact, threads)
    runner(batches[0])
    start_s = time.perf_counter() - began_s
    for batch in batches:
        runner(batch)
    return runner, start_s


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _peak_bytes() -> int:
    """The largest resident set since this program was started.

    Not getrusage: on Linux its ru_maxrss counts what the parent process held when it forked this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="optimization.measure.footprint", description="Memory and start-up time of one Artifact's Runner, as JSON."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-sizes", type=_sizes, default=BATCH_SIZES, metavar="1,8,32")
    arguments = parser.parse_args()
    try:
        print(json.dumps(asdict(_measure(arguments.folder, arguments.threads, arguments.batch_sizes))))
    except ValueError as error:
        sys.exit(f"optimization.measure.footprint: {error}")


if __name__ == "__main__":
    importlib.import_module("optimization.measure.footprint").main()
