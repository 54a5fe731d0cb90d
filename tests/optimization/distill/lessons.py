"""What the tests of distillation share: toy tasks, a teacher of each kind, and jobs that learn from it."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from optimization.distill.distillation import Distillation
from optimization.distill.parameters import Distill
from optimization.distill.teacher import TeacherPlace
from tests.toys import images, write_torch
from training.artifact import Artifact
from training.loop.losses import Loss
from training.models.architecture import Architecture
from training.task import Source, Split, Task

CONVNET = Architecture("convnet", {"widths": [8, 16]})
SMALL = Architecture("convnet", {"widths": [4]})
LSTM = Architecture("lstm", {"vocabulary": 40, "embedding": 8, "hidden": 6, "wide": False})
SMALL_LSTM = Architecture("lstm", {"vocabulary": 40, "embedding": 4, "hidden": 3, "wide": False})
BAG = Architecture("bag_of_embeddings", {"vocabulary": 40, "embedding": 4, "hidden": 5})
TRANSFORMER = Architecture("transformer", {"vocabulary": 40, "width": 8, "layers": 1, "heads": 2})


def garbled(source: Source) -> Task:
    """The toy images with wrong labels to train by: whoever learns the truth has it from a teacher."""
    task = images(source)
    train = task.splits["train"]
    return dataclasses.replace(task, splits={**task.splits, "train": Split(train.inputs, (train.labels + 1) % 3)})


def write_teacher(folder: Path, task: Task, architecture: Architecture) -> Artifact:
    reference = f"tests.{task.name.replace('_', 's:')}"  # toy_images is tests.toys:images
    return write_torch(folder / "teacher", task, architecture, seed=3, reference=reference)


def cross_entropy(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """A recipe's usual loss."""
    return functional.cross_entropy(logits, targets)


def make(teacher: Artifact, module: torch.nn.Module | None = None, **parameters: object) -> Loss:
    """The loss for `module`, or for one that has no hints."""
    distillation = Distillation(TeacherPlace(teacher.folder), Distill(**parameters))  # type: ignore[arg-type]
    return distillation(torch.nn.Identity() if module is None else module, cross_entropy)
