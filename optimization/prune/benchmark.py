"""`python -m optimization.prune.benchmark ARCHITECTURE --weights FILE`: what pruning costs and brings, by the amount.

Each model is measured beside the whole one and all others in interleaved rounds. Accuracy is of the gate split.
"""

import argparse
import dataclasses
import importlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from optimization.export import export_onnx
from optimization.measure.host import Host, describe_host
from optimization.measure.latency import Latency, Speedup, measure_latency, speedup
from optimization.prune.accuracy import accuracy_of
from optimization.prune.counts import Counts, count
from optimization.prune.fine_tune import School
from optimization.prune.settings import Prune
from optimization.prune.structured import prune
from optimization.runners.onnx_runtime import onnx_session
from training.artifact import Artifact, load_artifact
from training.encoding import Array, output_spec
from training.models.architecture import Architecture, build
from training.models.weights import load_weights
from training.module import load_module, write_torch
from training.options import add_training_arguments, read_compute, read_source
from training.recipe import override
from training.recipes import load_recipe
from training.task import Split, Task, load_task

BATCH_SIZES = (1, 8)


@dataclass(frozen=True)
class Row:
    """One model. `accuracy_cut` is before fine-tuning; speed-ups are against the whole model, by batch size."""

    amount: float
    counts: Counts
    size_bytes: int
    accuracy_cut: float
    accuracy: float
    p50_ms: dict[int, float]
    speedup: dict[int, Speedup]


@dataclass(frozen=True)
class Benchmark:
    settings: Prune
    gate_rows: int
    rows: tuple[Row, ...]
    host: Host


def whole_artifact(folder: Path, architecture: Architecture, weights: Path, task: Task) -> Artifact:
    """The model to prune, with weights from a file; raises ValueError where they do not fit."""
    module = build(architecture, task.encoding)
    print(load_weights(module, weights), flush=True)
    return write_torch(folder, "whole", module.state_dict(), architecture, task)


def benchmark(
    whole: Artifact, task: Task, amounts: list[float], settings: Prune, school: School, folder: Path
) -> Benchmark:
    """`settings` with each of `amounts`; the first row is the whole model's."""
    made = {0.0: (whole, whole)}
    for amount in amounts:
        pruned = prune(whole, task, dataclasses.replace(settings, amount=amount), school, folder, f"pruned-{amount:g}")
        cut = folder / f"pruned-{amount:g}-cut"
        made[amount] = (load_artifact(cut) if cut.is_dir() else pruned.artifact, pruned.artifact)
    found = _latency({f"{amount:g}": artifact for amount, (_, artifact) in made.items()}, task)
    row, gate = torch.from_numpy(task.splits["train"].inputs[:1].copy()), task.splits["gate"]
    rows = []
    for amount, (cut_artifact, artifact) in made.items():
        latency, module = found[f"{amount:g}"], load_module(artifact)
        accuracy = accuracy_of(module, gate)
        was_tuned = cut_artifact.folder != artifact.folder
        rows.append(
            Row(
                amount,
                count(module, row),
                artifact.size_bytes,
                accuracy_of(load_module(cut_artifact), gate) if was_tuned else accuracy,
                accuracy,
                {size: latency.at(size).p50_ms for size in BATCH_SIZES},
                {size: speedup(found["0"], latency, size) for size in BATCH_SIZES},
            )
        )
    return Benchmark(settings, len(gate), tuple(rows), describe_host(1))


def _latency(artifacts: dict[str, Artifact], task: Task) -> dict[str, Latency]:
    inputs, logits = task.splits["train"].inputs, output_spec(task.encoding)
    runners = {}
    for name, artifact in artifacts.items():
        session = onnx_session(export_onnx(load_module(artifact), inputs[:4], task.encoding.input_spec, logits))

        def run(batch: Array, session: Any = session) -> Array:
            answers: Array = session.run([logits.name], {task.encoding.input_spec.name: batch})[0]
            return answers

        runners[name] = run
    return measure_latency(runners, lambda size: inputs[:size], BATCH_SIZES, rounds=15, calls=8)


def _shortened(task: Task, rows: int) -> Task:
    """With no more than `rows` rows in the splits that accuracies are read from; trainings read theirs whole."""
    short = {name: Split(split.inputs[:rows], split.labels[:rows]) for name, split in task.splits.items()}
    return dataclasses.replace(task, splits={**task.splits, "val": short["val"], "gate": short["gate"]})


def table(made: Benchmark) -> Table:
    drawn = Table()
    for title in ("out", "parameters", "MACs", "bytes", "cut", "accuracy", *(f"batch {n}: ms" for n in BATCH_SIZES)):
        drawn.add_column(title, justify="right")
    for row in made.rows:
        times = [
            f"{row.p50_ms[n]:.2f}  {(s := row.speedup[n]).ratio:.2f}x ({s.lower:.2f} to {s.upper:.2f})"
            for n in BATCH_SIZES
        ]
        drawn.add_row(
            f"{row.amount:.0%}", f"{row.counts.parameters:,}", f"{row.counts.macs:,}", f"{row.size_bytes:,}",
            f"{row.accuracy_cut:.2%}", f"{row.accuracy:.2%}", *times,
        )  # fmt: skip
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(prog="optimization.prune.benchmark", description="Prune by several amounts.")
    parser.add_argument("architecture", help="as a recipe names it")
    parser.add_argument("--params", type=json.loads, default={}, metavar="JSON", help="of the architecture")
    parser.add_argument("--weights", type=Path, required=True, help="a file of weights, or an Artifact")
    parser.add_argument("--recipe", default="cifar10", help="to fine-tune by; its task is what is read")
    parser.add_argument("--recipe-set", action="append", default=[], metavar="FIELD=VALUE", help="override the recipe")
    parser.add_argument("--amount", type=float, action="append", required=True, help="a share to take out; repeatable")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of optimization.prune's")
    parser.add_argument("--rows", type=int, default=1000, help="of the gate split, at most (default 1000)")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    add_training_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        recipe = override(load_recipe(arguments.recipe), arguments.recipe_set)
        settings = override(Prune(amount=arguments.amount[0]), arguments.set)
        source = read_source(arguments, arguments.data_dir)
        task = _shortened(load_task(recipe.task, source, recipe.task_params), arguments.rows)
        with tempfile.TemporaryDirectory() as scratch:
            architecture = Architecture(arguments.architecture, arguments.params)
            whole = whole_artifact(Path(scratch) / "whole", architecture, arguments.weights, task)
            school = School(recipe, source, read_compute(arguments))
            made = benchmark(whole, task, arguments.amount, settings, school, Path(scratch))
    except ValueError as error:
        sys.exit(f"optimization.prune.benchmark: {error}")
    Console(width=140).print(table(made))
    if arguments.out:
        arguments.out.write_text(json.dumps(dataclasses.asdict(made), indent=1) + "\n")


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("optimization.prune.benchmark").main()
