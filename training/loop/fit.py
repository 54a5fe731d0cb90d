"""fit(): the training loop, in plain PyTorch. The same code runs under no Ray, one worker or many.

Shape suffixes: B batch, C classes.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from training.encoding import Encoding, ImageEncoding, TextEncoding
from training.loop.augment import preparation, trim_padding
from training.loop.order import epoch_order, group_by_length, step_ids, steps_per_epoch
from training.recipe import Recipe
from training.task import Split

# (inputs, logits_BC, labels_B) -> the batch's mean loss. Inputs are as the model saw them.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the epoch and step."""


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
class Worker:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"


# Called after each epoch with its record and a state that `fit(start=...)` goes on from. The state's tensors
# are those being trained: who keeps it must save or copy it before returning.
OnEpoch = Callable[[EpochRecord, dict[str, Any]], None]


def fit(
    recipe: Recipe,
    module: nn.Module,
    encoding: Encoding,
    train: Split,
    val: Split,
    loss: Loss | None = None,
    worker: Worker | None = None,
    start: dict[str, Any] | None = None,
    on_epoch: OnEpoch = lambda record, state: None,
) -> dict[str, Tensor]:
    """Train `module` by `recipe` and return the weights of the epoch with the best val accuracy.

    With `recipe.ema_decay` above 0 these are the averaged weights, and they are what is validated.
    With `worker.world_size` above 1 torch.distributed must be initialized; every worker calls fit()
    and reads its own part of each global batch. `start` is a state that `on_epoch` was given.
    Raises TrainingError when the loss is no longer finite, and ValueError where a step has too few rows for
    the workers.
    """
    worker = worker or Worker()
    rows_a_step = min(recipe.batch_size, len(train))
    if rows_a_step < worker.world_size:
        raise ValueError(f"a step of {rows_a_step} rows cannot be shared by {worker.world_size} workers: use fewer")
    loss = loss or (lambda inputs, logits_BC, labels_B: smoothed_cross_entropy(recipe, logits_BC, labels_B))
    module.to(worker.device)
    if isinstance(encoding, ImageEncoding):
        # Convolutions are a fifth to a third faster with channels last; the weights are returned in the usual order.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(recipe, module)
    steps = steps_per_epoch(len(train), recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(recipe, steps * recipe.epochs))
    averaged = _average(recipe, module)
    kept = averaged.module if averaged else module
    best: dict[str, Any] = {"accuracy": -1.0, "weights": {}}
    done, records = 0, []
    if start:
        module.load_state_dict(start["model"])
        optimizer.load_state_dict(start["optimizer"])
        scheduler.load_state_dict(start["scheduler"])
        best, done, records = start["best"], start["epoch"], start["records"]
        if averaged:
            averaged.load_state_dict(start["average"])
    parallel = DistributedDataParallel(module) if worker.world_size > 1 else module
    batches = _Batches(recipe, encoding, train, worker)
    for epoch in range(done + 1, recipe.epochs + 1):
        began = time.perf_counter()
        train_loss = _train_epoch(recipe, parallel, batches, epoch, loss, optimizer, scheduler, averaged)
        seconds = time.perf_counter() - began
        _share_buffers(kept, worker)
        val_loss, val_accuracy = validate(kept, encoding, val, worker)
        if val_accuracy >= best["accuracy"]:
            best = {"accuracy": val_accuracy, "weights": _copy(kept)}
        record = EpochRecord(
            epoch, train_loss, val_loss, val_accuracy, optimizer.param_groups[0]["lr"],
            steps * rows_a_step / seconds, seconds,
        )  # fmt: skip
        state = {
            "epoch": epoch,
            "model": module.state_dict(),
            "average": averaged.state_dict() if averaged else None,
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "best": best,
            "records": (records := [*records, asdict(record)]),
        }
        on_epoch(record, state)
    weights_of_best: dict[str, Tensor] = best["weights"]
    return weights_of_best


class _Batches:
    """The training split, resident in memory, and what this worker reads of it at each step."""

    def __init__(self, recipe: Recipe, encoding: Encoding, train: Split, worker: Worker) -> None:
        self._recipe, self._worker = recipe, worker
        self._inputs, self._labels = torch.from_numpy(train.inputs), torch.from_numpy(train.labels)
        self._prepare = preparation(encoding, recipe.augmentation)
        self._lengths = _lengths(recipe, encoding, train)
        self.steps = steps_per_epoch(len(train), recipe.batch_size)

    def epoch(self, epoch: int) -> "list[tuple[int, Tensor]]":
        order = epoch_order(self._recipe.seed, epoch, len(self._labels))
        if self._lengths is not None:
            order = group_by_length(order, self._lengths, self._recipe.batch_size, self._recipe.seed, epoch)
        worker = self._worker
        return [
            (step, torch.from_numpy(step_ids(order, step, self._recipe.batch_size, worker.rank, worker.world_size)))
            for step in range(self.steps)
        ]

    def read(self, epoch: int, step: int, ids: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(hash((self._recipe.seed, epoch, step, self._worker.rank)) % 2**63)
        inputs = self._prepare(self._inputs[ids], generator)
        return inputs.to(self._worker.device), self._labels[ids].to(self._worker.device)


def _lengths(recipe: Recipe, encoding: Encoding, split: Split) -> NDArray[np.int64] | None:
    """The length of every text where batches are made by it; None where they are not."""
    if not recipe.batch_by_length:
        return None
    if not isinstance(encoding, TextEncoding):
        raise ValueError(f"batch_by_length is for texts, not for inputs of kind {encoding.kind!r}: leave it out")
    lengths: NDArray[np.int64] = (split.inputs != encoding.pad_id).sum(axis=1, dtype=np.int64)
    return lengths


def _train_epoch(
    recipe: Recipe,
    module: nn.Module,
    batches: _Batches,
    epoch: int,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    averaged: AveragedModel | None,
) -> float:
    module.train()
    # Dropout and the like draw from the global generator: seeding it by epoch makes a resumed run repeat it.
    torch.manual_seed(recipe.seed * 100_003 + epoch)
    total = torch.zeros(())
    for step, ids in batches.epoch(epoch):
        inputs, labels_B = batches.read(epoch, step, ids)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits_BC = module(inputs)
        batch_loss = loss(inputs, logits_BC.float(), labels_B)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(batch_loss)
        norm = nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        # The norm is finite only if the loss and every gradient are: one check for all of them.
        if not math.isfinite(float(norm)):
            raise TrainingError(
                f"loss {float(batch_loss.detach())} or its gradient is not finite at epoch {epoch}, step {step}: "
                f"lower optimizer.lr (now {recipe.optimizer.lr}) or look at rows {ids[:8].tolist()}..."
            )
        optimizer.step()
        scheduler.step()
        if averaged:
            averaged.update_parameters(module.module if isinstance(module, DistributedDataParallel) else module)
        total += batch_loss.detach().cpu()
    return float(total) / batches.steps


def _average(recipe: Recipe, module: nn.Module) -> AveragedModel | None:
    """What keeps the exponential moving average of `module`'s weights; buffers are copied as they are.

    Over the first steps the decay rises with their number, or the untrained weights would weigh for long.
    """
    if not recipe.ema_decay:
        return None

    def blend(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        decay = min(recipe.ema_decay, (1 + int(steps)) / (10 + int(steps)))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - decay)

    return AveragedModel(module, multi_avg_fn=blend)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }


def _share_buffers(module: nn.Module, worker: Worker) -> None:
    """Give every worker the first one's running statistics: each has only seen its own part of the last batch."""
    if worker.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def validate(module: nn.Module, encoding: Encoding, split: Split, worker: Worker) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over `split`, whose rows the workers share among them."""
    module.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.inference_mode():
        for first in range(worker.rank * 256, len(split), 256 * worker.world_size):
            inputs = torch.from_numpy(split.inputs[first : first + 256])
            if isinstance(encoding, TextEncoding):
                inputs = trim_padding(inputs, encoding.pad_id)
            labels_B = torch.from_numpy(split.labels[first : first + 256])
            logits_BC = module(inputs.to(worker.device)).cpu()
            sums[0] += functional.cross_entropy(logits_BC, labels_B, reduction="sum")
            sums[1] += (logits_BC.argmax(dim=1) == labels_B).sum()
            sums[2] += len(labels_B)
    if worker.world_size > 1:
        sums = sums.to(worker.device)
        torch.distributed.all_reduce(sums)
    loss_sum, correct, rows = sums.tolist()
    return loss_sum / rows, correct / rows


def smoothed_cross_entropy(recipe: Recipe, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    return functional.cross_entropy(logits_BC, labels_B, label_smoothing=recipe.label_smoothing)


def _optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    choice = recipe.optimizer
    # Biases and normalization scales are not decayed: shrinking them regularizes nothing.
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": choice.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if choice.name == "sgd":
        return torch.optim.SGD(groups, lr=choice.lr, momentum=choice.momentum, nesterov=choice.momentum > 0)
    return torch.optim.AdamW(groups, lr=choice.lr)


def _schedule(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    warmup_steps = int(recipe.schedule.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if recipe.schedule.name == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return factor
