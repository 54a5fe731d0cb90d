"""`python -m training.benchmark.loading RECIPE`: how fast rows come, how fast the model takes them, and who waits.

The pipeline alone (read, augment, hand over), the model alone (one batch again and again), and both as fit() runs
them, in turn for several rounds. Beside the verdict's waiting share stands what torch's profiler saw of the same
steps: the share in which the training's thread ran no operation at all.
"""

import argparse
import dataclasses
import itertools
import time
from pathlib import Path

import torch

from training.benchmark.machine import command_line, describe, machine, write_report
from training.benchmark.pace import Pace
from training.benchmark.statistics import spread
from training.loop.batches import Batch, Batches
from training.loop.fit import fit
from training.loop.losses import make_loss
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.architecture import build
from training.observe.breakdown import Breakdown
from training.observe.clock import StepClock
from training.options import add_source_arguments, read_source
from training.recipe import Recipe, override
from training.recipes import load_recipe
from training.task import Task, load_task

SKIP = 5
HEAVY = "augmentation.policy=rand_augment"  # loads the pipeline


@dataclasses.dataclass(frozen=True)
class Measured:
    """One round, images/s; `waiting` and `idle` are shares of the steps' time, by the clock and by the profiler."""

    pipeline: float
    model: float
    together: float
    waiting: float
    idle: float
    verdict: str


class Profiled(Watcher):
    """Profiles the steps after the first SKIP, and tells in what share of them the thread ran no operation."""

    def begin(self, training: Training, clock: StepClock) -> None:
        self._clock, self._steps = clock, 0
        self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    def step(self, training: Training, batch: Batch) -> None:
        self._steps += 1
        if self._steps == SKIP:
            self._profiler.start()
            self._began = time.perf_counter()

    def end(self, training: Training) -> None:
        seconds = time.perf_counter() - self._began
        self._profiler.stop()
        events = [event for event in self._profiler.events() or [] if event.cpu_parent is None]  # type: ignore[no-untyped-call]
        busiest: dict[int, float] = {}
        for event in events:
            busiest[event.thread] = busiest.get(event.thread, 0.0) + event.time_range.elapsed_us() / 1e6
        self.idle = max(0.0, 1 - max(busiest.values()) / seconds)


def pipeline_alone(recipe: Recipe, task: Task, steps: int) -> float:
    batches = Batches(recipe, task.encoding, task.splits["train"], Worker())
    rows = began = 0.0
    endless = itertools.chain.from_iterable(batches.epoch(epoch) for epoch in itertools.count(1))
    for number, batch in enumerate(itertools.islice(endless, SKIP + steps)):
        if number == SKIP:
            rows, began = 0.0, time.perf_counter()
        rows += batch.rows
    seconds = time.perf_counter() - began
    batches.close()
    return rows / seconds


def model_alone(recipe: Recipe, task: Task, steps: int) -> float:
    """fit() on one batch of rows without augmentation, which costs the pipeline next to nothing."""
    still = dataclasses.replace(recipe, augmentation=type(recipe.augmentation)(), batch_by_length=False)
    return _paced(still, task, steps)[0].samples_per_s


def _paced(recipe: Recipe, task: Task, steps: int, *more: Watcher) -> tuple[Pace, StepClock]:
    pace, clocks = Pace(SKIP, steps), list[StepClock]()

    class Keep(Watcher):
        def begin(self, training: Training, clock: StepClock) -> None:
            clocks.append(clock)

    torch.manual_seed(0)
    module = build(recipe.architecture, task.encoding)
    train, val = task.splits["train"], task.splits["val"]
    loss = make_loss(recipe, train.labels, len(task.encoding.labels))
    fit(recipe, module, task.encoding, train, val, loss=loss, watchers=[pace, Keep(), *more])
    return pace, clocks[0]


def measure(recipe: Recipe, task: Task, steps: int) -> Measured:
    together, clock = _paced(recipe, task, steps)
    profiled = Profiled()
    _paced(recipe, task, steps, profiled)
    breakdown = Breakdown(dict(clock.seconds))
    return Measured(
        pipeline_alone(recipe, task, steps), model_alone(recipe, task, steps), together.samples_per_s,
        breakdown.share("data"), profiled.idle, breakdown.verdict(),
    )  # fmt: skip


def report(arguments: argparse.Namespace, results: dict[str, list[Measured]]) -> str:
    lines = [
        "# How fast rows come, and how fast the model takes them",
        "",
        f"{arguments.threads} thread(s), {arguments.steps} steps after {SKIP}, {arguments.rounds} rounds in turn; "
        f"{describe(machine())}. Rows a second, median (quartiles).",
        "",
        "| recipe | pipeline alone | model alone | both | waiting, by the clock | idle, by the profiler | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rounds in results.items():
        speeds = [spread([getattr(each, part) for each in rounds]) for part in ("pipeline", "model", "together")]
        shares = [f"{spread([getattr(each, part) for each in rounds]).median:.0%}" for part in ("waiting", "idle")]
        lines.append(f"| {name} | {' | '.join([*map(str, speeds), *shares])} | {rounds[-1].verdict} |")
    return "\n".join(
        [
            *lines,
            "",
            "The profiler's idle share counts the interpreter's own time between operations too, which the clock gives "
            "to the phase that it falls into. The two agree where idle = waiting + (1 - waiting) x the idle share of a "
            "run of the same model that hardly waits.",
            "",
            f"Measured by `{command_line('training.benchmark.loading')}`.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.benchmark.loading")
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument(
        "--case", action="append", metavar="SETTINGS", help="measured beside the recipe: FIELD=VALUE, more by spaces"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for loading.md and loading.json")
    add_source_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = dataclasses.replace(override(load_recipe(arguments.recipe), arguments.set), epochs=100_000)
    cases = arguments.case or [HEAVY]
    recipes = {
        arguments.recipe: recipe,
        **{f"{arguments.recipe}, {one}": override(recipe, one.split()) for one in cases},
    }
    task = load_task(recipe.task, read_source(arguments, arguments.data_dir), recipe.task_params)
    results: dict[str, list[Measured]] = {name: [] for name in recipes}
    for _ in range(arguments.rounds):
        for name, one in recipes.items():
            results[name].append(measure(one, task, arguments.steps))
    page = report(arguments, results)
    print(page)
    if arguments.out:
        figures = {name: [dataclasses.asdict(one) for one in rounds] for name, rounds in results.items()}
        write_report(arguments.out, "loading", page, {"rounds": figures})


if __name__ == "__main__":
    main()
