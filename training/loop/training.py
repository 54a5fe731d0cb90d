"""Training: everything a training is between two steps, which is all that a checkpoint has to hold."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from training.loop.averaging import make_average
from training.loop.optimizers import make_optimizer
from training.loop.schedules import make_schedule
from training.loop.worker import Worker
from training.recipe import Recipe


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the epoch and step."""


@dataclass(frozen=True, order=True)
class Position:
    """The next step: `epoch` counted from 1, `step` within it from 0."""

    epoch: int = 1
    step: int = 0


@dataclass(frozen=True)
class EpochRecord:
    epoch: int  # counted from 1
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    samples_per_s: float
    seconds: float


@dataclass(frozen=True)
class Best:
    """The epoch with the highest val accuracy, the last of equals, and its weights; `reached` is the first of them."""

    epoch: int = 0
    reached: int = 0
    accuracy: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)


class Training:
    """The module in training with its optimizer, schedule, scaler, averages, and how far it is."""

    def __init__(self, recipe: Recipe, module: nn.Module, steps_per_epoch: int, worker: Worker) -> None:
        self.recipe, self.module, self.worker, self.steps_per_epoch = recipe, module, worker, steps_per_epoch
        self.optimizer = make_optimizer(recipe, module)
        self.schedule = make_schedule(recipe, self.optimizer, steps_per_epoch * recipe.epochs)
        self.scaler = torch.amp.GradScaler(worker.device.split(":")[0], enabled=recipe.precision == "fp16")
        self.averaged = make_average(recipe, module)
        self.position = Position()
        # Of the epoch under way, as this worker counts: where it was interrupted, the first worker's sums go on.
        self.loss_sum = torch.zeros((), device=worker.device)
        self.rows = 0
        self.seconds = 0.0
        self.best = Best()
        self.records: tuple[EpochRecord, ...] = ()
        self.stopped_early = False
        self.last_epoch = recipe.epochs  # of this call of fit()
        # Raises TrainingError where the last gradients were not finite. Ask before keeping what a GPU computed.
        self.require_finite: Callable[[], None] = lambda: None

    @property
    def kept(self) -> nn.Module:
        """What is validated and kept: the averaged weights where the recipe averages."""
        return self.averaged.module if self.averaged else self.module

    @property
    def finished(self) -> bool:
        return self.stopped_early or self.position.epoch > self.recipe.epochs

    @property
    def paused(self) -> bool:
        """Whether it came as far as it was told, which is not to its end."""
        return not self.finished and self.position.epoch > self.last_epoch

    def state(self) -> dict[str, Any]:
        """All of it as tensors, numbers, strings, lists and dicts. The tensors are those being trained."""
        return {
            "position": [self.position.epoch, self.position.step],
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.averaged.state_dict() if self.averaged else None,
            "loss_sum": self.loss_sum,
            "rows": self.rows,
            "seconds": self.seconds,
            "best": {field.name: getattr(self.best, field.name) for field in fields(Best)},
            "records": [asdict(record) for record in self.records],
            "stopped_early": self.stopped_early,
        }

    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.position = Position(*state["position"])
        self.module.load_state_dict(state["model"])
        # The recipe's rates and decays hold, not those that the state was made with; the schedule follows.
        options = [{name: value for name, value in group.items() if name != "params"} for group in self._groups()]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, chosen in zip(self._groups(), options, strict=True):
            group.update(chosen)
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged:
            self.averaged.load_state_dict(state["average"])
        self.loss_sum = state["loss_sum"].to(self.worker.device, copy=True)
        self.rows, self.seconds = state["rows"], state["seconds"]
        self.best = Best(**state["best"])
        self.records = tuple(EpochRecord(**record) for record in state["records"])
        self.stopped_early = state["stopped_early"]


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
