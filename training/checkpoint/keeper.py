"""Keeper: saves a training by time and by epoch while it runs."""

import contextlib
import time
from collections.abc import Callable

from training.checkpoint.saver import AsyncSaver
from training.loop.agreement import Agreement
from training.loop.batches import Batch
from training.loop.training import EpochRecord, Position, Training, TrainingError
from training.loop.watcher import Watcher
from training.observe.clock import StepClock

URGENT_EVERY_S = 1.0  # when it is known that a worker will soon be gone


class Keeper(Watcher):
    """Saves every `every_s` seconds (between two steps), every `every_epochs` epochs, and at the end.

    The first worker's copy is everyone's: replicas are alike, and the others need no Keeper. Where the model is cut
    among the workers each has one, and a saver that writes its part; the first one's clock counts, and all save after
    the step that follows the one at which it said so. A save that comes due by time while one is still being written is
    left to the next step, so a slow store makes those rarer and training no slower; one at an epoch's end waits.
    """

    def __init__(
        self,
        saver: AsyncSaver,
        every_s: float,
        every_epochs: int,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._saver, self._every_s, self._every_epochs = saver, every_s, every_epochs
        self._is_urgent = is_urgent
        self._saved_at = time.monotonic()
        self._saved: Position | None = None
        self._agreement: Agreement | None = None

    def begin(self, training: Training, clock: StepClock) -> None:
        self._saved_at = time.monotonic()
        self._saved = training.position if training.position != Position() else None
        if training.strategy.is_sharded:
            self._agreement = Agreement(training.worker)

    def step(self, training: Training, batch: Batch) -> None:
        is_due = training.worker.rank == 0 and self._is_due()
        if not (self._agreement.reached(is_due) if self._agreement else is_due):
            return
        with contextlib.suppress(TrainingError):  # not finite: all workers find so at the same step, and end together
            training.require_finite()
            self._save(training)

    def epoch(self, training: Training, record: EpochRecord) -> None:
        """Its weights are finite: all workers have looked."""
        if record.epoch % self._every_epochs == 0 or training.finished:
            self._save(training)

    def wants_stop(self) -> bool:
        """Where the training is another's. All workers stop then, or the others would wait for the first one."""
        return self._saver.overtaken

    def end(self, training: Training) -> None:
        """Raises CheckpointError where what was trained last is not kept, and SupersededError where it is another's."""
        training.require_finite()
        if training.position != self._saved:
            self._save(training)
        self._forget_what_was_due()
        self._saver.finish()

    def _is_due(self) -> bool:
        every_s = URGENT_EVERY_S if self._is_urgent() else self._every_s
        return time.monotonic() - self._saved_at >= every_s and not self._saver.busy

    def _save(self, training: Training) -> None:
        self._forget_what_was_due()
        position = training.position
        if training.strategy.is_sharded:
            self._saver.save(training.own_state(), position.epoch, position.step, training.strategy.file_group)
        else:
            self._saver.save(training.state(), position.epoch, position.step)
        self._saved, self._saved_at = position, time.monotonic()

    def _forget_what_was_due(self) -> None:
        """What was asked at this step was asked before this save."""
        if self._agreement:
            self._agreement.settle()
