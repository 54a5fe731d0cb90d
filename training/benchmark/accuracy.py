"""`python -m training.benchmark.accuracy RECIPE`: how good a recipe is and how long it trains, by fit() alone.

Neither Ray nor MLflow is needed, so it runs wherever PyTorch does, on the GPU where there is one. Each seed is a
training of its own. `--out` adds them to the page's table, which keeps the trainings of earlier calls.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from training.benchmark.machine import command_line, describe, machine, write_report
from training.evaluation.scores import clopper_pearson, predict_in_batches
from training.loop.fit import fit
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.architecture import build
from training.models.untrained import untrained
from training.module import predictor
from training.options import add_source_arguments, read_source
from training.recipe import Recipe, override
from training.recipes import load_recipe
from training.task import Task, load_task


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One training. `training_s` is that of its steps, `wall_s` of all from the untrained model to the last epoch's
    validation; `gpu_utilization` is a mean over the steps, None where nobody tells it.
    """

    recipe: str
    command: str
    machine: str
    seed: int
    split: str
    rows: int
    correct: int
    epochs: int
    training_s: float
    wall_s: float
    gpu_utilization: float | None

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows


class _Looks(Watcher):
    """Prints each epoch, and adds up the time of steps."""

    def __init__(self) -> None:
        self.training_s = 0.0

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self.training_s += record.seconds
        print(f"epoch {record.epoch:>3}  loss {record.train_loss:.4f}  val accuracy {record.val_accuracy:.2%}  "
              f"{record.samples_per_s:,.0f} samples/s", flush=True)  # fmt: skip


def measure(recipe: Recipe, task: Task, arguments: argparse.Namespace, seed: int) -> Outcome:
    """Train by `recipe` with `seed`, then answer `arguments.split` by the weights of the best epoch."""
    recipe = dataclasses.replace(recipe, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module, looks = untrained(recipe, task.encoding), _Looks()
    began = time.perf_counter()
    training = fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"],
        worker=Worker(device=device), watchers=[looks],
    )  # fmt: skip
    wall_s = time.perf_counter() - began
    module = build(recipe.architecture, task.encoding).eval()
    module.load_state_dict(training.best.weights)
    split = task.splits[arguments.split]
    used = [record.gpu_utilization for record in training.records if record.gpu_utilization is not None]
    answers = predict_in_batches(predictor(module), split.inputs).argmax(axis=1)
    return Outcome(
        recipe=arguments.recipe,
        command=command_line("training.benchmark.accuracy"),
        machine=describe(machine()),
        seed=seed,
        split=arguments.split,
        rows=len(split),
        correct=int((answers == split.labels).sum()),
        epochs=len(training.records),
        training_s=looks.training_s,
        wall_s=wall_s,
        gpu_utilization=statistics.fmean(used) if used else None,
    )


def report(outcomes: Sequence[Outcome]) -> str:
    """The Markdown page: a row for each command, the seeds' median and range, with one seed's interval."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault((one.command, one.machine), []).append(one)
    lines = [
        "# How good the recipes are, and how long they train",
        "",
        "| recipe | split, rows | accuracy, median (range) | seeds | 95 % interval of one | training, s "
        "| with validation, s | GPU used |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for ones in groups.values():
        ordered = sorted(one.accuracy for one in ones)
        median = sorted(ones, key=lambda one: one.accuracy)[len(ones) // 2]
        low, high = clopper_pearson(median.correct, median.rows)
        used = [one.gpu_utilization for one in ones if one.gpu_utilization is not None]
        lines.append(
            f"| {median.recipe} | {median.split}, {median.rows:,} "
            f"| {statistics.median(ordered):.2%} ({ordered[0]:.2%}-{ordered[-1]:.2%}) | {len(ones)} "
            f"| {low:.2%}-{high:.2%} | {statistics.median(one.training_s for one in ones):,.0f} "
            f"| {statistics.median(one.wall_s for one in ones):,.0f} "
            f"| {f'{statistics.fmean(used):.0%}' if used else 'no GPU'} |"
        )
    lines += ["", "Measured by:", ""]
    lines += [f"- `{command}` on {place}" for command, place in groups]
    return "\n".join([*lines, ""])


def _earlier(out: Path, command: str) -> list[Outcome]:
    """What the page holds but what the same command measured."""
    path = out / "accuracy.json"
    told = json.loads(path.read_text())["outcomes"] if path.exists() else []
    return [one for one in (Outcome(**facts) for facts in told) if one.command != command]


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.benchmark.accuracy")
    parser.add_argument("recipe", help="a named recipe (training/recipes.py) or module:callable")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--split", default="gate", help="report is for what is published alone (default gate)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for accuracy.md and accuracy.json")
    add_source_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = override(load_recipe(arguments.recipe), arguments.set)
    task = load_task(recipe.task, read_source(arguments, arguments.data_dir), recipe.task_params)
    if arguments.split not in task.splits:
        parser.error(f"--split is {arguments.split!r}: it is one of {', '.join(task.splits)}")
    outcomes = [measure(recipe, task, arguments, seed) for seed in arguments.seeds]
    print(report(outcomes))
    if arguments.out:
        kept = [*_earlier(arguments.out, outcomes[0].command), *outcomes]
        write_report(arguments.out, "accuracy", report(kept), {"outcomes": [dataclasses.asdict(one) for one in kept]})


if __name__ == "__main__":
    main()
