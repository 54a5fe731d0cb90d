"""What the processes of a crew do: train as a command does, keeping the training in a folder."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed

from tests.training.parallel.trainings import DROPOUT
from training.checkpoint.folder import Folder
from training.checkpoint.shard_files import save_shards
from training.checkpoint.store import CheckpointStore, Claim
from training.launch.job import Compute, TrainJob
from training.launch.work import work
from training.loop.batches import Batch
from training.loop.training import HELD, EpochRecord, Position, Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.observe.clock import StepClock
from training.parallel.plan import Plan
from training.recipe import Recipe
from training.task import Source

OFTEN_S = 1e-3
NEVER_S = 1e9


class Look(Watcher):
    """Remembers where the training began and how many steps it took, and takes its time for each."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.began, self.steps, self._step_s = Position(), 0, step_s

    def begin(self, training: Training, clock: StepClock) -> None:
        self.began = training.position

    def step(self, training: Training, batch: Batch) -> None:
        self.steps += 1
        time.sleep(self._step_s)


class KillWithin(Watcher):
    """Kills this process once a checkpoint within `epoch` is whole."""

    def __init__(self, storage: Path, epoch: int) -> None:
        self._finished, self._within = storage, f"*/checkpoints/epoch-{epoch:05}-step-*/manifest.json"

    def step(self, training: Training, batch: Batch) -> None:
        if any("step-0000000" not in str(path) for path in self._finished.glob(self._within)):
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Kept:
    """The best weights, the epochs, where it began and how many steps it took."""

    weights: dict[str, Tensor]
    records: list[EpochRecord]
    began: Position
    steps: int


def keep(
    rank: int,
    world_size: int,
    plan: Plan,
    storage: Path,
    recipe: Recipe = DROPOUT,
    every_s: float = NEVER_S,
    step_s: float = 0.0,
    kill: tuple[int, int] | None = None,
    until_epoch: int | None = None,
) -> Kept:
    """`kill` is the rank of who dies, and the epoch."""
    look = Look(step_s)
    more: Sequence[Watcher] = [look, *([KillWithin(storage, kill[1])] if kill and kill[0] == rank else [])]
    job = TrainJob(recipe, Source(), "", "", "one", until_epoch=until_epoch)
    compute = Compute(workers=max(2, world_size), plan=plan, storage=str(storage), checkpoint_every_s=every_s)
    training = work(job, compute, Worker(rank, world_size), "test", more)
    return Kept(training.best.weights, list(training.records), look.began, look.steps)


def save_where(rank: int, world_size: int, folder: Path, claim: Claim, full: bool) -> str:
    """Save one tensor of each process, the second of which finds its disk `full`; returns what came of it."""

    def refuse(self: Folder, name: str) -> contextlib.AbstractContextManager[None]:
        raise OSError(28, "No space left on device")

    if full and rank == 1:
        Folder.writing = refuse  # type: ignore[assignment, method-assign]
    group = distributed.new_group(backend="gloo")
    assert group is not None
    state = {"position": [2, 0], HELD: {"model": {f"of {rank}": torch.ones(2)}}}
    try:
        save_shards(CheckpointStore(Folder(str(folder))), state, 2, 0, claim, world_size, group)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "saved"
