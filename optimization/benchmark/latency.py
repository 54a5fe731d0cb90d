"""`python -m optimization.benchmark.latency ARCHITECTURE --size 224`: what passes bring a network in time and bytes.

The network is untrained and its rows are random: time does not depend on either, and nothing is said of accuracy. FP32,
static INT8, channels taken out, and both together are timed in interleaved rounds.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from optimization.measure.exclusive import exclusive
from optimization.measure.host import describe_host
from optimization.measure.latency import Speedup, measure_latency, speedup
from optimization.prune.counts import count
from optimization.prune.fine_tune import School
from optimization.prune.settings import FineTune, Prune
from optimization.prune.structured import prune
from optimization.runners.open import open_runner
from optimization.table import size_text
from optimization.variants import float_variant, int8_variant
from training.artifact import Artifact
from training.benchmark.machine import command_line, write_report
from training.encoding import ImageEncoding
from training.models.architecture import Architecture, build
from training.module import load_module, write_torch
from training.options import absolute_path
from training.recipe import Recipe
from training.task import SPLIT_NAMES, Source, Split, Task

THREADS = 1
BATCH_SIZES = (1, 8)
ROWS = 64
CALLS = 5
ROUND_TO = 16
WHOLE = "FP32"


@dataclass(frozen=True)
class Row:
    """One graph: `parameters` of the network, p50 and speed-up over the whole one in FP32 by batch size."""

    name: str
    parameters: int
    size_bytes: int
    p50_ms: tuple[float, ...]
    speedups: tuple[Speedup, ...]


def random_task(size: int, classes: int) -> Task:
    """Colour images of noise, `size` pixels high and wide."""
    encoding = ImageEncoding(height=size, width=size, channels=3, labels=tuple(map(str, range(classes))))
    random = np.random.default_rng(0)
    inputs, labels = random.integers(0, 256, (ROWS, 3, size, size), np.uint8), random.integers(0, classes, ROWS)
    return Task("noise", encoding, dict.fromkeys(SPLIT_NAMES, Split(inputs, labels)))


def graphs(architecture: Architecture, task: Task, settings: Prune, folder: Path) -> dict[str, tuple[Artifact, int]]:
    """Each graph with the parameters of its network."""
    whole = _untrained(architecture, task, folder / "whole")
    school = School(Recipe(task.name, architecture, epochs=1), Source())
    thin = prune(whole, task, settings, school, folder, "pruned").artifact
    made = {}
    for name, source in ((WHOLE, whole), (f"pruned by {settings.amount:.0%}", thin)):
        parameters = count(load_module(source), torch.from_numpy(task.splits["gate"].inputs[:1])).parameters
        place = folder / source.manifest.variant
        exact = float_variant("exact", source, task, place, THREADS)
        made[name] = exact.artifact, parameters
        few_bits = int8_variant("int8", exact, task, place, THREADS)
        made["INT8" if name == WHOLE else f"{name}, INT8"] = few_bits.artifact, parameters
    return made


def measure(made: Mapping[str, tuple[Artifact, int]], task: Task, rounds: int) -> list[Row]:
    runners = {name: open_runner(artifact, THREADS) for name, (artifact, _) in made.items()}
    inputs = task.splits["gate"].inputs
    with exclusive("timing the graphs"):
        found = measure_latency(runners, lambda size: inputs[:size], BATCH_SIZES, rounds, calls=CALLS)
    return [
        Row(
            name, parameters, artifact.size_bytes,
            tuple(found[name].at(size).p50_ms for size in BATCH_SIZES),
            tuple(speedup(found[WHOLE], found[name], size) for size in BATCH_SIZES),
        )
        for name, (artifact, parameters) in made.items()
    ]  # fmt: skip


def page(title: str, rows: list[Row], command: str) -> str:
    rounds = rows[0].speedups[0].rounds
    host = describe_host(THREADS)
    libraries = ", ".join(f"{name} {version}" for name, version in host.libraries)
    lines = [
        f"# {title}: time and bytes",
        "",
        f"{host.cpu} ({', '.join(host.instructions)}), {THREADS} thread, {libraries}. The network is untrained and the "
        "rows are noise, so nothing is said of accuracy. Pruned: the same share of the channels of every group, to "
        f"multiples of {ROUND_TO}. Speed-up over FP32 as the median of {rounds} interleaved rounds of {CALLS} calls, "
        "with its 95 % interval.",
        "",
        "| | parameters | size |" + "".join(f" ms at batch {size} | speed-up |" for size in BATCH_SIZES),
        "|---|---|---|" + "---|---|" * len(BATCH_SIZES),
    ]
    for row in rows:
        times = [
            f"{p50_ms:.2f} | " + ("" if row.name == WHOLE else f"{gain.ratio:.2f} ({gain.lower:.2f}-{gain.upper:.2f})")
            for p50_ms, gain in zip(row.p50_ms, row.speedups, strict=True)
        ]
        lines.append(f"| {row.name} | {row.parameters:,} | {size_text(row.size_bytes)} | {' | '.join(times)} |")
    return "\n".join([*lines, "", f"Measured by `{command}`.", ""])


def _untrained(architecture: Architecture, task: Task, folder: Path) -> Artifact:
    torch.manual_seed(0)
    return write_torch(folder, "whole", build(architecture, task.encoding).state_dict(), architecture, task)


def main() -> None:
    parser = argparse.ArgumentParser(prog="optimization.benchmark.latency", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("architecture", help="a network for images by name, such as torchvision/resnet18")
    parser.add_argument("--params", type=json.loads, default={}, metavar="JSON", help="its parameters")
    parser.add_argument("--size", type=int, default=224, help="pixels (default 224)")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--amount", type=float, default=0.5, help="of the channels that can be taken out (default 0.5)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=absolute_path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    try:
        task = random_task(arguments.size, arguments.classes)
        architecture = Architecture(arguments.architecture, arguments.params)
        settings = Prune(arguments.amount, allocation="uniform", round_to=ROUND_TO, fine_tune=FineTune(epochs=0))
        with tempfile.TemporaryDirectory() as scratch:
            rows = measure(graphs(architecture, task, settings, Path(scratch)), task, arguments.rounds)
    except ValueError as error:
        sys.exit(f"optimization.benchmark.latency: {error}")
    name = arguments.architecture.rpartition("/")[2]
    told = page(
        f"{name} at {arguments.size}x{arguments.size}", rows,
        command_line("optimization.benchmark.latency"),
    )  # fmt: skip
    figures = {"host": describe_host(THREADS).to_json(), "rows": [asdict(row) for row in rows]}
    write_report(arguments.out, f"latency-{name}-{arguments.size}", told, figures)
    print(told)


if __name__ == "__main__":
    main()
