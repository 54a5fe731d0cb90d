"""Harmless: a watcher that only tells of a training, and so must not end it."""

import logging
from collections.abc import Callable

from training.loop.batches import Batch
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.observe.clock import StepClock
from training.registry import RegistryError

logger = logging.getLogger(__name__)


class Harmless(Watcher):
    """`watcher`, whose full disks and absent servers are warned of, once in a row each. Where it cannot begin, it is
    left out.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._looks_on = True
        self._warned_of = ""

    def begin(self, training: Training, clock: StepClock) -> None:
        self._looks_on = self._try(lambda: self._watcher.begin(training, clock))

    def step(self, training: Training, batch: Batch) -> None:
        self._try(lambda: self._watcher.step(training, batch))

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._try(lambda: self._watcher.epoch(training, record))

    def end(self, training: Training) -> None:
        self._try(lambda: self._watcher.end(training))

    def _try(self, look: Callable[[], None]) -> bool:
        """Whether it went well."""
        if not self._looks_on:
            return False
        try:
            look()
        except (OSError, RegistryError) as error:
            if str(error) != self._warned_of:
                logger.warning("%s: %s; training goes on", type(self._watcher).__name__, error)
            self._warned_of = str(error)
            return False
        self._warned_of = ""
        return True
