"""What tells of a training's progress while it runs: to a bar here, or to whoever draws one elsewhere."""

import sys
import time
from collections.abc import Callable

from training.loop.batches import Batch
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.observe.bar import SHOWN_EVERY_S, Bar, Progress
from training.observe.clock import StepClock


class ProgressReports(Watcher):
    """Gives `show` a Progress once in SHOWN_EVERY_S: reading the loss waits for a GPU."""

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._shown_at = 0.0
        self._rows = 0  # that all workers read since this one began

    def begin(self, training: Training, clock: StepClock) -> None:
        self._began_at = time.monotonic()

    def step(self, training: Training, batch: Batch) -> None:
        now = time.monotonic()
        self._rows += batch.rows
        if now - self._shown_at < SHOWN_EVERY_S:
            return
        self._shown_at = now
        position, epochs, steps = training.position, training.recipe.epochs, training.steps_per_epoch
        self._show(
            Progress(
                epoch=position.epoch,
                epochs=epochs,
                step=(position.epoch - 1) * steps + position.step,
                steps=epochs * steps,
                # The first of a pipeline's stages sees no loss.
                loss=float(training.loss_sum) / training.rows if training.rows else None,
                samples_per_s=self._rows / max(now - self._began_at, 1e-9),
            )
        )


class ProgressBar(ProgressReports):
    """The bar of a training in this process, whose output is a terminal."""

    def __init__(self) -> None:
        self._bar = Bar(sys.stdout)
        super().__init__(self._bar.show)

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._bar.clear()  # the epoch's line is printed next

    def end(self, training: Training) -> None:
        self._bar.close()
