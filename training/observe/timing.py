"""Timing: the watcher that keeps the step clock and tells the verdict at the end."""

from training.loop.training import Training
from training.loop.watcher import Watcher
from training.observe.breakdown import Breakdown
from training.observe.clock import StepClock


class Timing(Watcher):
    def __init__(self) -> None:
        self._clock: StepClock | None = None

    def begin(self, training: Training, clock: StepClock) -> None:
        self._clock = clock

    @property
    def breakdown(self) -> Breakdown:
        return Breakdown(dict(self._clock.seconds) if self._clock else {})

    def end(self, training: Training) -> None:
        print(self.breakdown.verdict(), flush=True)
