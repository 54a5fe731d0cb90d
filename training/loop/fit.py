"""fit(): the training loop, in plain PyTorch. The same code runs under no Ray, one worker or many.

Shape suffixes: B batch, C classes.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from training.encoding import Encoding, ImageEncoding, TextEncoding
from training.loop.agreement import Agreement
from training.loop.augment import trim_padding
from training.loop.batches import Batches
from training.loop.losses import Loss, make_loss
from training.loop.step import Stepper
from training.loop.training import EpochRecord, Position, Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.observe.clock import StepClock
from training.observe.gpu import GpuUse
from training.parallel.choice import make_strategy
from training.parallel.plan import Plan
from training.parallel.strategy import Strategy
from training.recipe import Recipe
from training.task import Split

VALIDATION_ROWS = 256  # at once


def fit(
    recipe: Recipe,
    module: nn.Module,
    encoding: Encoding,
    train: Split,
    val: Split,
    loss: Loss | None = None,
    worker: Worker | None = None,
    start: dict[str, Any] | Callable[[Training], None] | None = None,
    until_epoch: int | None = None,
    watchers: Sequence[Watcher] = (),
    plan: Plan = Plan(),  # noqa: B008
) -> Training:
    """Train `module` by `recipe`; `.best` of what it returns has the weights of the epoch with the best val accuracy.

    With `recipe.ema_decay` above 0 these are the averaged weights, and they are what is validated.
    With `worker.world_size` above 1 torch.distributed must be initialized; every worker calls fit(), and `plan` says
    how they share the work. `start` is a `Training.state()` to go on from, of any plan, or what restores a Training by
    itself. Returns early after `until_epoch`, or when a watcher wants it: `.finished` says which. Raises TrainingError
    when the loss is no longer finite or memory does not suffice, and ValueError where a step has too few rows for the
    workers or the plan does not fit.
    """
    worker = worker or Worker()
    strategy = make_strategy(recipe, worker, plan)
    reader = strategy.reader
    batches = Batches(recipe, encoding, train, reader)
    if len(train) // batches.steps < reader.world_size:
        raise ValueError(
            f"a step of {len(train) // batches.steps} rows cannot be shared by {reader.world_size} workers: use fewer"
        )
    module.to(worker.device)
    if isinstance(encoding, ImageEncoding):
        # Convolutions are a fifth to a third faster with channels last; the weights are returned in the usual order.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(recipe, module, batches.steps, worker, strategy)
    if callable(start):
        start(training)
    elif start:
        training.restore(start)
    clock = StepClock(worker.on_gpu)
    loss = loss or make_loss(recipe, train.labels, len(encoding.labels))
    stepper = Stepper(training, batches, loss, clock)
    training.last_epoch = min(recipe.epochs, until_epoch or recipe.epochs)
    agreement, gpu = Agreement(worker), GpuUse()
    watchers = [gpu, *watchers]
    with contextlib.closing(batches), _determinism(recipe, worker):
        for watcher in watchers:
            watcher.begin(training, clock)
        while not training.finished and training.position.epoch <= training.last_epoch:
            if not _train_epoch(training, stepper, batches, clock, agreement, watchers):
                break
            training.require_finite()
            record = _close_epoch(training, encoding, val, clock, gpu)
            for watcher in watchers:
                watcher.epoch(training, record)
            clock.mark("checkpoint")
        agreement.settle()
        for watcher in watchers:
            watcher.end(training)
    return training


def _train_epoch(
    training: Training,
    stepper: Stepper,
    batches: Batches,
    clock: StepClock,
    agreement: Agreement,
    watchers: Sequence[Watcher],
) -> bool:
    """The steps that are left of this epoch; False where all workers agreed to stop before they were done."""
    epoch = training.position.epoch
    training.module.train()
    before_s, began = training.seconds, time.perf_counter()
    clock.start_step()
    for batch in batches.epoch(epoch, training.position.step):
        clock.mark("data")
        batch = batches.to_device(batch)
        clock.mark("transfer")
        stepper(batch)
        training.position = Position(epoch, training.position.step + 1)
        training.seconds = before_s + time.perf_counter() - began
        for watcher in watchers:
            watcher.step(training, batch)
        clock.mark("checkpoint")
        if agreement.reached(any(watcher.wants_stop() for watcher in watchers)):
            return False
        clock.start_step()
    return True


def _close_epoch(training: Training, encoding: Encoding, val: Split, clock: StepClock, gpu: GpuUse) -> EpochRecord:
    """Validate, keep what is best, and make `training` ready for the next epoch."""
    recipe, strategy, epoch = training.recipe, training.strategy, training.position.epoch
    clock.end_steps()
    used = gpu.take()
    strategy.share_buffers(training.kept)
    val_loss, val_accuracy = validate(training.kept, encoding, val, strategy, training.micro_batch or VALIDATION_ROWS)
    loss_sum, rows = strategy.sum_over_workers([float(training.loss_sum), training.rows])
    training.keep_if_best(epoch, val_accuracy)
    record = EpochRecord(
        epoch, loss_sum / rows, val_loss, val_accuracy, training.optimizer.param_groups[0]["lr"],
        rows / training.seconds, training.seconds, **used,
    )  # fmt: skip
    training.schedule.epoch_end(val_loss)
    training.records = (*training.records, record)
    training.stopped_early = 0 < recipe.early_stopping <= epoch - training.best.reached
    training.position = Position(epoch + 1)
    training.loss_sum.zero_()
    training.rows, training.seconds = 0, 0.0
    clock.mark("validation")
    return record


def validate(
    module: nn.Module, encoding: Encoding, split: Split, strategy: Strategy, rows_at_once: int = VALIDATION_ROWS
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over `split`, whose rows the workers share among them.

    What fits while training fits here: where memory asked for micro-batches, no more rows go through at once.
    """
    module.eval()
    reader = strategy.reader
    sums = torch.zeros(3, dtype=torch.float64, device=reader.device)
    with torch.no_grad():
        for first in range(0, len(split), rows_at_once * reader.world_size):
            rows = slice(first + reader.rank * rows_at_once, first + (reader.rank + 1) * rows_at_once)
            labels_B = torch.from_numpy(split.labels[rows]).to(reader.device)
            # Without rows of its own a worker still computes, since others may need the weights that it holds.
            inputs = torch.from_numpy(split.inputs[rows if len(labels_B) else slice(1)].copy())
            if isinstance(encoding, TextEncoding):
                inputs = trim_padding(inputs, encoding.pad_id)
            logits_BC = strategy.logits(module, inputs.to(reader.device))
            if len(labels_B) and strategy.counts:
                sums[0] += functional.cross_entropy(logits_BC, labels_B, reduction="sum")
                sums[1] += (logits_BC.argmax(dim=1) == labels_B).sum()
                sums[2] += len(labels_B)
    loss_sum, correct, rows_seen = strategy.sum_over_workers(sums.tolist())
    return loss_sum / rows_seen, correct / rows_seen


@contextlib.contextmanager
def _determinism(recipe: Recipe, worker: Worker) -> Iterator[None]:
    """Only operations that give the same bits each time, where the recipe asks for it; as before afterwards.

    Else cuDNN tries which of its convolutions is the fastest for each shape, which may be another one each time.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it with its first call
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = worker.on_gpu and not recipe.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
