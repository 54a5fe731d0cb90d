"""Training: everything a training is between two steps, which is all that a checkpoint has to hold."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.loop.averaging import make_average
from training.loop.optimizers import make_optimizer
from training.loop.schedules import make_schedule
from training.loop.worker import Worker
from training.parallel.named_state import Slots, load_slots, load_tensors, named_slots, rebind
from training.parallel.strategy import Strategy
from training.recipe import Recipe

OPTIMIZER = "optimizer."  # begins the names of those groups of tensors that an optimizer remembers
HELD = "held"  # the tensors of a process in its own state


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the epoch and step."""


class MemoryRanOutError(TrainingError):
    """This worker's memory ran out; with `micro_batch` rows at once it may suffice (0: it does not hold one)."""

    def __init__(self, message: str, micro_batch: int = 0) -> None:
        super().__init__(message)
        self.micro_batch = micro_batch


@dataclass(frozen=True, order=True)
class Position:
    """The next step: `epoch` counted from 1, `step` within it from 0."""

    epoch: int = 1
    step: int = 0


@dataclass(frozen=True)
class EpochRecord:
    epoch: int  # counted from 1
    # With several workers, and after a resume within the epoch, in part estimated: see `Replicas.totals`.
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    samples_per_s: float
    seconds: float
    # Of the first worker's GPU, where there is one: the mean over the epoch's steps, and the peak since it started.
    gpu_utilization: float | None = None
    gpu_memory_bytes: float | None = None


@dataclass(frozen=True)
class Best:
    """The epoch with the highest val accuracy, the last of equals, and its weights; `reached` is the first of them."""

    epoch: int = 0
    reached: int = 0
    accuracy: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)


class Training:
    """The module in training with its optimizer, schedule, scaler, averages, and how far it is.

    `strategy` leaves in `module` what this process holds of it. Where it `is_sharded`, `state`, `own_state` and
    `keep_if_best` are called by all processes together; what the first and the last make is in the first one alone.
    """

    def __init__(
        self, recipe: Recipe, module: nn.Module, steps_per_epoch: int, worker: Worker, strategy: Strategy | None = None
    ) -> None:
        self.recipe, self.module, self.worker, self.steps_per_epoch = recipe, module, worker, steps_per_epoch
        self.strategy = strategy or Strategy(recipe, worker)
        self.averaged = make_average(recipe, module)
        self.optimizer = self._spread()
        self.schedule = make_schedule(recipe, self.optimizer, steps_per_epoch * recipe.epochs)
        self.scaler = self.strategy.make_scaler()
        self.position = Position()
        # How many rows go through the model at once; 0: a worker's whole share. Less than the recipe's where memory ran
        # out: who goes on cuts its steps as they were cut before, and need not run out of memory again.
        self.micro_batch = recipe.micro_batch
        # Of the epoch under way, as this worker counts; after a resume the first worker goes on from the sums of all.
        self.loss_sum = torch.zeros((), device=worker.device)
        self.rows = 0
        self.seconds = 0.0
        self.best = Best()
        self.records: tuple[EpochRecord, ...] = ()
        self.stopped_early = False
        self.last_epoch = recipe.epochs  # of this call of fit()
        # Raises TrainingError where the last gradients were not finite. Ask before keeping what a GPU computed.
        self.require_finite: Callable[[], None] = lambda: None

    def _spread(self) -> torch.optim.Optimizer:
        """Leave to this process its part of the model, and make the optimizer of that part."""
        module, averaged, strategy = self.module, self.averaged, self.strategy
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        optimizer = make_optimizer(self.recipe, module)
        strategy.spread(module)
        if averaged:
            strategy.spread(averaged.module)
            if strategy.is_sharded:
                _average_parts(averaged)
        rebind(optimizer, names, module, strategy.whole_name)
        strategy.wrap(module)
        return optimizer

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

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All that is as large as the model, in groups, by parameter: what this process holds, and no copy of it."""
        held = {"model": self.module.state_dict()}
        held |= {OPTIMIZER + slot: named for slot, named in named_slots(self.optimizer, self.module).items()}
        if self.averaged:
            held["average"] = self.averaged.module.state_dict()
        return held

    def numbers(self) -> dict[str, Any]:
        """All the rest, for all workers together."""
        loss_sum, rows = self.strategy.totals(self.loss_sum, self.rows)
        return {
            "loss_sum": loss_sum,
            "rows": rows,
            "seconds": self.seconds,
            "position": [self.position.epoch, self.position.step],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged_steps": int(self.averaged.n_averaged) if self.averaged else 0,
            "best": {field.name: getattr(self.best, field.name) for field in fields(Best)},
            "records": [asdict(record) for record in self.records],
            "stopped_early": self.stopped_early,
            "micro_batch": self.micro_batch,
        }

    def state(self) -> dict[str, Any]:
        """All of it as tensors, numbers, strings, lists and dicts, for any number of processes under any plan.

        The tensors are those being trained where one process holds them all.
        """
        return {**self.numbers(), **{group: self.strategy.gather(held) for group, held in self.tensors().items()}}

    def own_state(self) -> dict[str, Any]:
        """`state`, but that of the tensors it has this process's part, under HELD, so that none need be whole.

        The best weights are, in the first process.
        """
        return {**self.numbers(), HELD: {group: self.strategy.parts(held) for group, held in self.tensors().items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        strategy, held = self.strategy, self.module.state_dict()
        load_tensors(self.module, strategy.scatter(state["model"], held))
        if self.averaged:
            load_tensors(self.averaged.module, strategy.scatter(state["average"], held))
        parameters = dict(self.module.named_parameters())
        slots = {
            # Copies: an optimizer takes what it is given for its own, and changes it.
            group.removeprefix(OPTIMIZER): {n: part.clone() for n, part in strategy.scatter(full, parameters).items()}
            for group, full in state.items()
            if group.startswith(OPTIMIZER)
        }
        self.restore_numbers(state, slots)

    def restore_numbers(self, numbers: dict[str, Any], slots: Slots) -> None:
        """Inverse of `numbers`; `slots` are the optimizer's tensors as this process holds them."""
        load_slots(self.optimizer, self.module, slots)
        self.position = Position(*numbers["position"])
        self.schedule.load_state_dict(numbers["schedule"])
        self.scaler.load_state_dict(numbers["scaler"])
        if self.averaged:
            self.averaged.n_averaged.fill_(numbers["averaged_steps"])
        self.seconds = numbers["seconds"]
        if self.worker.rank == 0:
            self.loss_sum = numbers["loss_sum"].to(self.worker.device, copy=True)
            self.rows = numbers["rows"]
        self.best = Best(**numbers["best"])
        self.records = tuple(EpochRecord(**record) for record in numbers["records"])
        self.stopped_early = numbers["stopped_early"]
        self.micro_batch = smaller_part(self.micro_batch, numbers.get("micro_batch", 0))  # older states have none

    def keep_if_best(self, epoch: int, accuracy: float) -> None:
        """Keep the weights of `epoch` where its val `accuracy` is no worse than any before."""
        if accuracy >= self.best.accuracy:
            reached = epoch if accuracy > self.best.accuracy else self.best.reached
            self.best = Best(epoch, reached, accuracy, copied(self.strategy.gather(self.kept.state_dict())))


def smaller_part(one: int, other: int) -> int:
    """The smaller of two micro-batches, of which 0 is the whole."""
    return min(one, other) or max(one, other)


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the CPU's memory, in the usual order."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
    }


def _average_parts(averaged: AveragedModel) -> None:
    """Average what this process holds of each tensor: one call takes no mix of tensors that are cut and whole ones."""
    from training.parallel.shards import local

    blend = averaged.multi_avg_fn
    assert blend is not None

    def blend_parts(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        blend([local(tensor) for tensor in averages], [local(tensor) for tensor in weights], steps)

    averaged.multi_avg_fn = blend_parts
