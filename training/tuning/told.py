"""Told: hands each epoch of a training to whoever asked for it."""

from collections.abc import Callable
from typing import Any

from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher


class Told(Watcher):
    def __init__(self, on_epoch: Callable[[EpochRecord, dict[str, Any]], None]) -> None:
        self._on_epoch = on_epoch

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._on_epoch(record, training.state())
