"""What the processes of a crew do: train a toy by a recipe and a plan."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.toys import image_recipe, images, texts
from training.checkpoint.saver import AsyncSaver
from training.launch.run_folder import RunFolder
from training.loop.batches import Batch
from training.loop.fit import fit
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.architecture import Architecture, build
from training.models.recompute import recompute_activations
from training.observe.clock import StepClock
from training.parallel.plan import Plan
from training.recipe import Optimizer, Recipe, Schedule
from training.task import Source

TASKS = {"tests.toys:images": images, "tests.toys:texts": texts}
DENSE = dataclasses.replace(
    image_recipe(), architecture=Architecture("tests.toys:dense"), epochs=3, optimizer=Optimizer("sgd", lr=0.05)
)
# What makes agreement hard, at once: 120 rows in batches of 17 and 18, which can be shared evenly by none, parts of
# them, of which some worker lacks one, gradients that are clipped, and averaged weights.
ENCODER = dataclasses.replace(
    image_recipe(),
    task="tests.toys:texts",
    architecture=Architecture("tests.training.parallel.encoder:encoder"),
    epochs=2,
    batch_size=18,
    micro_batch=4,
    optimizer=Optimizer("sgd", lr=0.2),
    schedule=Schedule("constant", 0.0),
    clip_norm=0.5,
    ema_decay=0.9,
)


DROPOUT = dataclasses.replace(
    ENCODER, architecture=Architecture("tests.training.parallel.encoder:encoder", {"dropout": 0.3})
)


@dataclass
class Trained:
    """What came of it in one process.

    `final` is the full state in the end, `states` are those after the steps asked for, `uncut` is what it holds whole.
    """

    weights: dict[str, Tensor]
    records: list[EpochRecord]
    final: dict[str, Any]
    states: dict[int, dict[str, Any]]
    seconds: dict[str, float]
    read: list[list[int]]
    uncut: dict[str, Tensor]


class Looker(Watcher):
    def __init__(self, steps: Sequence[int], stop_after: int | None) -> None:
        self.states: dict[int, dict[str, Any]] = {}
        self.read: list[list[int]] = []
        self.clock = StepClock()
        self._steps, self._stop_after = steps, stop_after

    def begin(self, training: Training, clock: StepClock) -> None:
        self.clock = clock

    def step(self, training: Training, batch: Batch) -> None:
        self.read.append(batch.ids.tolist())
        if len(self.read) in self._steps:
            self.states[len(self.read)] = copy.deepcopy(training.state())

    def wants_stop(self) -> bool:
        return len(self.read) == self._stop_after


class Saver(Watcher):
    """Writes what each process holds after so many steps, while the training goes on; or the first one all of it."""

    def __init__(self, folder: Path, after: int) -> None:
        self._folder, self._after = RunFolder(str(folder)), after

    def begin(self, training: Training, clock: StepClock) -> None:
        claim = self._folder.begin_attempt(training.worker, "test").claim
        self._saver = AsyncSaver(self._folder.store, claim, training.worker.world_size)

    def step(self, training: Training, batch: Batch) -> None:
        self._after -= 1
        position, strategy = training.position, training.strategy
        if not self._after and strategy.is_sharded:
            self._saver.save(training.own_state(), position.epoch, position.step, strategy.file_group)
        elif not self._after and training.worker.rank == 0:
            self._saver.save(training.state(), position.epoch, position.step)

    def end(self, training: Training) -> None:
        self._saver.finish()


def train(
    rank: int,
    world_size: int,
    recipe: Recipe,
    plan: Plan,
    start: dict[str, Any] | Callable[[Training], None] | None = None,
    steps: Sequence[int] = (),
    stop_after: int | None = None,
    bad_row: int | None = None,
    more: Sequence[Watcher] = (),
) -> Trained:
    """`bad_row` makes the loss of the worker that reads it as the first of a part infinite."""
    task = TASKS[recipe.task](Source())
    torch.manual_seed(recipe.seed)
    module = build(recipe.architecture, task.encoding)
    if recipe.recompute_activations:
        recompute_activations(module)
    looker = Looker(steps, stop_after)

    def loss(inputs: Tensor, logits_BC: Tensor, targets: Tensor) -> Tensor:
        mean = functional.cross_entropy(logits_BC, targets)
        bad = bad_row is not None and torch.equal(inputs[0], torch.from_numpy(task.splits["train"].inputs[bad_row]))
        return mean * float("inf") if bad else mean

    training = fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"], loss=loss,
        worker=Worker(rank, world_size), start=start, watchers=[looker, *more], plan=plan,
    )  # fmt: skip
    final = copy.deepcopy(training.state())
    seconds = {str(phase): spent for phase, spent in looker.clock.seconds.items()}
    uncut = {name: held for name, held in training.module.state_dict().items() if type(held) is Tensor}
    return Trained(
        training.best.weights, list(training.records), final, looker.states, seconds, looker.read,
        copy.deepcopy(uncut),
    )  # fmt: skip


def save(rank: int, world_size: int, recipe: Recipe, plan: Plan, folder: Path, after: int) -> Trained:
    return train(rank, world_size, recipe, plan, more=[Saver(folder, after)])


def load(rank: int, world_size: int, recipe: Recipe, plan: Plan, folder: Path) -> Trained:
    kept = RunFolder(str(folder))
    attempt = kept.begin_attempt(Worker(rank, world_size), "test")
    assert attempt.found is not None
    return train(rank, world_size, recipe, plan, kept.start(attempt))
