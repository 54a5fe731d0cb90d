"""Watcher: what looks on while fit() trains, to keep, to show or to end it."""

from training.loop.batches import Batch
from training.loop.training import EpochRecord, Training
from training.observe.clock import StepClock


class Watcher:
    """Every method may be left out. All are called by every worker, in the thread that trains."""

    def begin(self, training: Training, clock: StepClock) -> None:
        """Before the first step, which may be in the middle of an epoch."""

    def step(self, training: Training, batch: Batch) -> None:
        """After each step; `training.position` is the next one."""

    def epoch(self, training: Training, record: EpochRecord) -> None:
        """After an epoch was validated."""

    def wants_stop(self) -> bool:
        """Whether to stop between two steps; where one worker says so, all stop before the same step."""
        return False

    def end(self, training: Training) -> None:
        """After the last step, finished or stopped; not after an error."""
