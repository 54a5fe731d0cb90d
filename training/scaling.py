"""`python -m training.scaling RECIPE --workers 1,2,4`: how much faster more workers train, and what holds them back.

Weak scaling: each worker keeps the recipe's batch size, so the global batch grows with their number. For each number
torchrun starts the workers on this machine, one GPU each where there are as many, else one CPU thread each. The
numbers are measured in turn, several rounds of them, each after its first steps.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from training.benchmark.machine import command_line, describe, machine, write_report
from training.benchmark.pace import Pace
from training.benchmark.statistics import spread
from training.launch.job import Compute, Interrupted, TrainJob
from training.loop.batches import Batch
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.observe.breakdown import Breakdown
from training.observe.clock import StepClock
from training.observe.gpu import GpuUse
from training.options import add_source_arguments, read_source
from training.recipe import Recipe, override
from training.recipes import load_recipe

# What the field holds good: efficiency at least, communication at most, GPU utilization at least.
TARGETS = {"efficiency": 0.85, "communication_share": 0.15, "gpu_utilization": 0.85}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run: the speed of all workers together, and the first worker's shares. None: there is no GPU to ask."""

    workers: int
    samples_per_s: float
    communication_share: float
    gpu_utilization: float | None
    verdict: str


class Probe(Watcher):
    """Writes a Measured into `path` once the steps after the first `skip` are done."""

    def __init__(self, path: Path, pace: Pace) -> None:
        self._path, self._pace, self._gpu = path, pace, GpuUse()

    def begin(self, training: Training, clock: StepClock) -> None:
        self._clock = clock

    def step(self, training: Training, batch: Batch) -> None:
        if self._pace.rows:
            self._gpu.step(training, batch)

    def end(self, training: Training) -> None:
        breakdown = Breakdown(dict(self._clock.seconds))
        measured = Measured(
            training.worker.world_size, self._pace.samples_per_s, breakdown.share("communication"),
            self._gpu.take().get("gpu_utilization"), breakdown.verdict(),
        )  # fmt: skip
        self._path.write_text(json.dumps(dataclasses.asdict(measured)))


@dataclasses.dataclass(frozen=True)
class Probing:
    """Makes the watchers of a worker: all stop after the same step, the first one tells."""

    path: Path
    skip: int
    steps: int

    def __call__(self, worker: Worker) -> Sequence[Watcher]:
        pace = Pace(self.skip, self.steps)
        return [pace, Probe(self.path, pace)] if worker.rank == 0 else [pace]


def measure_here(arguments: argparse.Namespace) -> None:
    """Be one of torchrun's workers."""
    from training.launch.run import run_training

    recipe, workers = _recipe(arguments), int(os.environ["WORLD_SIZE"])
    recipe = dataclasses.replace(recipe, batch_size=recipe.batch_size * workers, epochs=100_000)
    with tempfile.TemporaryDirectory() as storage:
        shared = Path(arguments.measure_into).parent / "storage" if workers > 1 else Path(storage)
        job = TrainJob(
            recipe, read_source(arguments, arguments.data_dir), "", "", "scaling",
            make_watchers=Probing(Path(arguments.measure_into), arguments.skip, arguments.steps),
        )  # fmt: skip
        compute = Compute(
            local=True, threads=arguments.threads, storage=str(shared), checkpoint_every_s=1e9,
            checkpoint_every_epochs=10**9,
        )  # fmt: skip
        try:
            run_training(job, compute)
        except Interrupted:
            return  # after the last step that was asked for


def measure(arguments: argparse.Namespace, workers: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "measured.json"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"),
            *("-m", "training.scaling", *sys.argv[1:], f"--measure-into={into}"),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{workers} workers failed: {done.stderr[-2000:]}")
        return Measured(**json.loads(into.read_text()))


def _recipe(arguments: argparse.Namespace) -> Recipe:
    return override(load_recipe(arguments.recipe), arguments.set)


def report(arguments: argparse.Namespace, rounds: dict[int, list[Measured]]) -> str:
    """The Markdown page, with the targets beside what was measured and what was not."""
    base = spread([one.samples_per_s for one in next(iter(rounds.values()))])
    first = next(iter(rounds))
    lines = [
        "# How training scales with workers",
        "",
        f"Recipe `{arguments.recipe}`, weak scaling, {arguments.threads} CPU thread(s) a worker, {arguments.steps} "
        f"steps after {arguments.skip}, {arguments.rounds} rounds in turn; {describe(machine())}.",
        "",
        "| workers | samples/s (quartiles) | efficiency | communication | GPU utilization | verdict |",
        "|---|---|---|---|---|---|",
    ]
    worst: dict[str, float] = {}
    for workers, runs in rounds.items():
        speed = spread([one.samples_per_s for one in runs])
        efficiency = speed.median * first / (base.median * workers)
        communication = spread([one.communication_share for one in runs]).median
        used = [one.gpu_utilization for one in runs if one.gpu_utilization is not None]
        lines.append(
            f"| {workers} | {speed} | {efficiency:.0%} | {communication:.0%} "
            f"| {f'{spread(used).median:.0%}' if used else 'no GPU'} | {runs[-1].verdict} |"
        )
        worst["efficiency"] = min(worst.get("efficiency", 1.0), efficiency)
        worst["communication_share"] = max(worst.get("communication_share", 0.0), communication)
        if used:
            worst["gpu_utilization"] = min(worst.get("gpu_utilization", 1.0), spread(used).median)
    lines += ["", *(_judged(name, worst.get(name)) for name in TARGETS), ""]
    command = command_line("training.scaling")
    return "\n".join([*lines, f"Measured by `{command}`.", ""])


def _judged(name: str, value: float | None) -> str:
    at_most = name == "communication_share"
    target = f"{'at most' if at_most else 'at least'} {TARGETS[name]:.0%}"
    if value is None:
        return f"- {name.replace('_', ' ')}: {target} wanted, not measured: there is no GPU here"
    met = value <= TARGETS[name] if at_most else value >= TARGETS[name]
    return f"- {name.replace('_', ' ')}: {target} wanted, {value:.0%} at worst: {'met' if met else 'missed'}"


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.scaling", description="Measure how training scales with workers.")
    parser.add_argument("recipe", help="a named recipe (training/recipes.py) or module:callable")
    parser.add_argument("--workers", type=_numbers, default=[1, 2], metavar="1,2,...")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--threads", type=int, default=1, help="of each worker (default 1)")
    parser.add_argument("--skip", type=int, default=20, help="steps before the measurement")
    parser.add_argument("--steps", type=int, default=100, help="steps that are measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for scaling.md and scaling.json")
    parser.add_argument("--measure-into", help=argparse.SUPPRESS)
    add_source_arguments(parser)
    arguments = parser.parse_args()
    if arguments.measure_into:
        measure_here(arguments)
        return
    rounds: dict[int, list[Measured]] = {workers: [] for workers in arguments.workers}
    for number in range(arguments.rounds):
        for workers, runs in rounds.items():
            runs.append(measure(arguments, workers))
            print(f"round {number + 1}, {workers} worker(s): {runs[-1].samples_per_s:,.0f} samples/s", flush=True)
    page = report(arguments, rounds)
    print(page)
    if arguments.out:
        figures = {workers: [dataclasses.asdict(one) for one in runs] for workers, runs in rounds.items()}
        write_report(arguments.out, "scaling", page, {"runs": figures})


if __name__ == "__main__":
    main()
