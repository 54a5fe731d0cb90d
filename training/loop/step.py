"""Stepper: one step of training, from a batch to changed weights."""

import logging
import math

import torch
from torch import Tensor

from training.loop.batches import Batch, Batches
from training.loop.losses import Loss
from training.loop.training import MemoryRanOutError, Training, TrainingError
from training.loop.worker import seed_step
from training.observe.clock import StepClock
from training.parallel.strategy import Part

logger = logging.getLogger(__name__)

# Looking at a figure of a GPU waits for the GPU, so it is looked at once in so many steps and before whatever is kept.
GPU_LOOK_EVERY = 50
# fp16 alone: so many steps in a row without a finite gradient are no longer the scaler's search for its scale.
MAX_SKIPPED_STEPS = 50
NAMED_ROWS = 16


class Stepper:
    def __init__(self, training: Training, batches: Batches, loss: Loss, clock: StepClock) -> None:
        self._training, self._strategy, self._batches = training, training.strategy, batches
        self._loss, self._clock = loss, clock
        self._parameters = [p for p in training.module.parameters() if p.requires_grad]
        self._skipped = torch.zeros((), dtype=torch.int64, device=training.worker.device)
        self._unseen = 0
        self._steps_begun = 0  # since the training's, this one included
        training.require_finite = self.require_finite

    def __call__(self, batch: Batch) -> None:
        """Train on this worker's share of a batch; raises TrainingError where its gradient is not finite."""
        training, clock = self._training, self._clock
        self._steps_begun = (training.position.epoch - 1) * training.steps_per_epoch + training.position.step + 1
        self._seed()
        batch_loss = self._gradient(batch)
        optimizer, scaler = training.optimizer, training.scaler
        if scaler.is_enabled():
            scaler.unscale_(optimizer)
        norm = self._strategy.clip(self._parameters, training.recipe.clip_norm)
        self._count_skipped(norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        training.schedule.step()
        if training.averaged:
            training.averaged.update_parameters(training.module)
        if self._strategy.counts:
            training.loss_sum += batch_loss
            training.rows += len(batch.ids)
        clock.mark("optimizer")

    def _gradient(self, batch: Batch) -> Tensor:
        """The gradient of the batch, by micro-batches, halved for as long as memory runs out."""
        training = self._training
        while True:
            try:
                return self._strategy.forward_backward(self._parts(batch), self._loss, training.scaler, self._clock)
            except torch.OutOfMemoryError as error:
                size = self._part_rows(batch)
                half = math.ceil(size / 2)
                if size == 1 or training.worker.world_size > 1:
                    # Others wait for this worker's gradients: it cannot begin the step again by itself.
                    advice = f"set micro_batch={half} or use more workers" if size > 1 else "use a smaller model"
                    raise MemoryRanOutError(
                        f"{size} rows a worker do not fit its memory at {self._here()}: {advice}",
                        half if size > 1 else 0,
                    ) from error
            training.optimizer.zero_grad(set_to_none=True)
            if training.worker.on_gpu:
                torch.cuda.empty_cache()
            self._seed()
            logger.warning("out of memory with %d rows at %s: on with micro-batches of %d", size, self._here(), half)
            training.micro_batch = half

    def _seed(self) -> None:
        position = self._training.position
        seed_step(self._training.recipe.seed, position.epoch, position.step, self._strategy.draws)

    def _part_rows(self, batch: Batch) -> int:
        """How many rows at most go through the model at once; the same for all who read this batch."""
        largest_share = -(-batch.rows // self._strategy.reader.world_size)
        return min(self._training.micro_batch or self._strategy.rows_at_once(largest_share), largest_share)

    def _parts(self, batch: Batch) -> list[Part]:
        readers = self._strategy.reader.world_size
        # As many for each reader, whose share may be a row smaller: a part may be one row that weighs nothing.
        count = math.ceil(-(-batch.rows // readers) / self._part_rows(batch))
        # Gradients are averaged over those who read, so their rows weigh as many times more as there are of them.
        scale = readers / batch.rows
        inputs, targets = batch.inputs.tensor_split(count), batch.targets.tensor_split(count)
        return [
            Part(i, t, len(t) * scale) if len(t) else Part(batch.inputs[:1], batch.targets[:1], 0.0)
            for i, t in zip(inputs, targets, strict=True)
        ]

    def _count_skipped(self, norm: Tensor) -> None:
        """The norm is finite only if the loss and every gradient are: one check for all of them."""
        self._skipped = torch.where(torch.isfinite(norm), 0, self._skipped + 1)
        self._unseen += 1
        if not self._training.worker.on_gpu or self._unseen >= GPU_LOOK_EVERY:
            self.require_finite()

    def require_finite(self) -> None:
        """Raises TrainingError where the last steps' gradients were not finite; waits for the GPU."""
        self._unseen = 0
        skipped = int(self._skipped)
        if skipped <= (MAX_SKIPPED_STEPS if self._training.scaler.is_enabled() else 0):
            return
        training = self._training
        steps = training.steps_per_epoch
        epoch, step = divmod(self._steps_begun - skipped, steps)
        rows = self._batches.order(epoch + 1).batch(step)[:NAMED_ROWS].tolist()
        raise TrainingError(
            f"the loss or its gradient is not finite at epoch {epoch + 1}, step {step}: "
            f"lower optimizer.lr (now {training.recipe.optimizer.lr}) or look at rows {rows} of the batch"
        )

    def _here(self) -> str:
        position = self._training.position
        return f"epoch {position.epoch}, step {position.step}"
