"""Progress: a bar on a terminal, with loss, rate and what is left."""

import sys
import time

from training.loop.batches import Batch
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.observe.clock import StepClock

SHOWN_EVERY_S = 0.5  # reading the loss waits for a GPU


class ProgressBar(Watcher):
    """Shown where the output is a terminal; in a file the lines of the epochs say enough."""

    def __init__(self) -> None:
        self._shown_at = 0.0
        self._rows = 0  # that all workers read since the bar began

    def begin(self, training: Training, clock: StepClock) -> None:
        from tqdm import tqdm

        self._began_at = time.monotonic()
        total = training.recipe.epochs * training.steps_per_epoch
        self._bar = tqdm(
            total=total, initial=_steps_done(training), unit="step", leave=False, disable=not sys.stdout.isatty(),
            file=sys.stdout, dynamic_ncols=True, smoothing=0.05,
        )  # fmt: skip

    def step(self, training: Training, batch: Batch) -> None:
        now = time.monotonic()
        self._rows += batch.rows
        if self._bar.disable or now - self._shown_at < SHOWN_EVERY_S:
            return
        self._shown_at = now
        rate = self._rows / max(now - self._began_at, 1e-9)
        self._bar.set_description(f"epoch {training.position.epoch}/{training.recipe.epochs}", refresh=False)
        # The first of a pipeline's stages sees no loss.
        loss = f"loss {float(training.loss_sum) / training.rows:.4f}, " if training.rows else ""
        self._bar.set_postfix_str(f"{loss}{rate:,.0f} samples/s", refresh=False)
        self._bar.update(_steps_done(training) - self._bar.n)

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._bar.clear()  # the epoch's line is printed next

    def end(self, training: Training) -> None:
        self._bar.close()


def _steps_done(training: Training) -> int:
    return (training.position.epoch - 1) * training.steps_per_epoch + training.position.step
