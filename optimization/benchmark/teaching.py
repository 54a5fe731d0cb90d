"""A student with a teacher and without one: trained from the same seed, scored on the gate split, timed in turns."""

import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from optimization.distill.distillation import Distillation
from optimization.distill.parameters import Distill
from optimization.distill.student import distill
from optimization.distill.teacher import TeacherPlace
from optimization.runners.open import open_runner
from training.artifact import Artifact, load_artifact
from training.evaluation.scores import predict_in_batches
from training.launch.job import Compute, TrainJob, identity_of
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.loop.batches import Batch, Batches
from training.loop.losses import make_loss
from training.loop.step import Stepper
from training.loop.training import Training
from training.loop.worker import Worker
from training.models.untrained import untrained
from training.module import load_module
from training.observe.clock import StepClock
from training.recipe import Recipe
from training.task import Source, Task
from training.train import write_torch_artifact

Arm = Literal["alone", "taught"]
ARMS: tuple[Arm, Arm] = ("alone", "taught")
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Outcome:
    """One student. `accuracy` is of the gate split; `identity` tells what it was made from, and with."""

    arm: Arm
    seed: int
    identity: str
    accuracy: float
    parameters: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class Lesson:
    """What all students of a comparison share."""

    task: Task
    source: Source
    compute: Compute
    teacher: Artifact
    parameters: Distill

    def identity(self, arm: Arm, recipe: Recipe) -> str:
        """The same for the same student, whenever it is trained."""
        taught = (self.teacher.digest, json.dumps(self.parameters.to_json())) if arm == "taught" else ()
        return identity_of(recipe, self.task.data_hash, arm, *taught)

    def train(self, arm: Arm, recipe: Recipe) -> Outcome:
        """Train the student of `recipe`, and score it; raises what `run_training` and `distill` raise."""
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / arm
            if arm == "taught":
                place = TeacherPlace(self.teacher.folder)
                artifact = distill(place, self.parameters, recipe, self.task, self.source, self.compute, folder)
            else:
                artifact = train_alone(recipe, self.task, self.source, self.compute, folder, "student")
            seconds = time.perf_counter() - began
            return Outcome(
                arm,
                recipe.seed,
                self.identity(arm, recipe),
                gate_accuracy(artifact, self.task),
                parameters_of(artifact),
                artifact.size_bytes,
                seconds,
            )


def train_alone(recipe: Recipe, task: Task, source: Source, compute: Compute, folder: Path, variant: str) -> Artifact:
    """A model trained by its labels; what was interrupted is gone on with, and what is there is not trained again."""
    if folder.is_dir():
        return load_artifact(folder)
    job = TrainJob(recipe, source, "", "", identity_of(recipe, task.data_hash))
    artifact = write_torch_artifact(folder, variant, recipe, task, run_training(job, compute), parent=None)
    RunFolder(compute.folder(job)).clear()
    return artifact


def gate_accuracy(artifact: Artifact, task: Task) -> float:
    gate = task.splits["gate"]
    logits_BC = predict_in_batches(open_runner(artifact, torch.get_num_threads()), gate.inputs)
    return float((logits_BC.argmax(axis=1) == gate.labels).mean())


def parameters_of(artifact: Artifact) -> int:
    return sum(parameter.numel() for parameter in load_module(artifact).parameters())


def step_seconds(lesson: Lesson, recipe: Recipe, steps: int, rounds: int) -> dict[Arm, list[float]]:
    """Seconds a step, a round each: both arms in turn in this process, each `steps` at a time, after a warm-up."""
    takers = {arm: _Steps(lesson, recipe, arm) for arm in ARMS}
    try:
        for taker in takers.values():
            taker.take(WARM_UP_STEPS)
        seconds: dict[Arm, list[float]] = {arm: [] for arm in ARMS}
        for turn in range(rounds):
            for arm in ARMS if turn % 2 else ARMS[::-1]:
                seconds[arm].append(takers[arm].take(steps))
        return seconds
    finally:
        for taker in takers.values():
            taker.close()


class _Steps:
    """A training of one arm, step by step as `fit` takes them."""

    def __init__(self, lesson: Lesson, recipe: Recipe, arm: Arm) -> None:
        task, worker = lesson.task, Worker(device="cuda" if torch.cuda.is_available() else "cpu")
        module = untrained(recipe, task.encoding)
        loss = make_loss(recipe, task.splits["train"].labels, len(task.encoding.labels))
        if arm == "taught":
            distillation = Distillation(TeacherPlace(lesson.teacher.folder), lesson.parameters, recipe.precision)
            module = distillation.wrap(module)
            loss = distillation(module, loss)
        module.to(worker.device)
        if task.encoding.kind == "image":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as fit() does
        self._batches = Batches(recipe, task.encoding, task.splits["train"], worker)
        self._stepper = Stepper(Training(recipe, module.train(), self._batches.steps, worker), self._batches, loss,
                                StepClock(worker.on_gpu))  # fmt: skip
        self._endless: Iterator[Batch] = itertools.chain.from_iterable(map(self._batches.epoch, itertools.count(1)))

    def take(self, steps: int) -> float:
        """Seconds a step."""
        self._wait()
        began = time.perf_counter()
        for batch in itertools.islice(self._endless, steps):
            self._stepper(batch)
        self._wait()
        return (time.perf_counter() - began) / steps

    def close(self) -> None:
        self._batches.close()

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
