"""Keeper: saves a training by time and by epoch while it runs."""

import contextlib
import time
from collections.abc import Callable

from training.checkpoint.saver import AsyncSaver
from training.loop.batches import Batch
from training.loop.training import EpochRecord, Position, Training, TrainingError
from training.loop.watcher import Watcher
from training.observe.clock import StepClock

URGENT_EVERY_S = 1.0  # when it is known that a worker will soon be gone


class Keeper(Watcher):
    """Saves every `every_s` seconds (between two steps), every `every_epochs` epochs, and at the end.

    The first worker's copy is everyone's: replicas are alike, and the others need no Keeper. Where the model is cut
    among the workers (`is_sharded`) each has one, and all together gather the state in the first, whose saver writes
    it; that is done at epochs' ends alone, since their clocks do not agree within one. A save that comes due by time
    while one is still being written is left to the next step, so a slow store makes those rarer and training no slower;
    one at an epoch's end waits.
    """

    def __init__(
        self,
        saver: AsyncSaver | None,
        every_s: float,
        every_epochs: int,
        is_urgent: Callable[[], bool] = lambda: False,
        is_sharded: bool = False,
    ) -> None:
        self._saver, self._every_s, self._every_epochs = saver, every_s, every_epochs
        self._is_urgent, self._is_sharded = is_urgent, is_sharded
        self._saved_at = time.monotonic()
        self._saved: Position | None = None

    def begin(self, training: Training, clock: StepClock) -> None:
        self._saved_at = time.monotonic()
        self._saved = training.position if training.position != Position() else None

    def step(self, training: Training, batch: Batch) -> None:
        if self._is_sharded or self._saver is None:
            return
        every_s = URGENT_EVERY_S if self._is_urgent() else self._every_s
        if time.monotonic() - self._saved_at < every_s or self._saver.busy:
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
        return self._saver is not None and self._saver.overtaken

    def end(self, training: Training) -> None:
        """Raises CheckpointError where what was trained last is not kept, and SupersededError where it is another's."""
        training.require_finite()
        if training.position != self._saved:
            self._save(training)
        if self._saver:
            self._saver.finish()

    def _save(self, training: Training) -> None:
        position = training.position
        state = training.state()
        if self._saver:
            self._saver.save(state, position.epoch, position.step)
        self._saved, self._saved_at = position, time.monotonic()
