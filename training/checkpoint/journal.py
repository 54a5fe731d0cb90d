"""Journal: notes in the ledger where a training starts and ends, and marks each step, so that losses can be counted."""

import contextlib
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from training.checkpoint.ledger import Ledger
from training.checkpoint.store import Claim
from training.loop.batches import Batch
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.observe.clock import StepClock

# Steps done since the training began, and when the last of them was: seconds since 1970.
_MARK = struct.Struct("<qd")


class Journal(Watcher):
    """`mark` is a file that survives the process; without one (an object store) lost steps are not counted.

    Stands behind the Keeper: what it calls finished or stopped is kept by then.
    """

    def __init__(self, ledger: Ledger, claim: Claim, mark: Path | None, rejected: Mapping[str, str]) -> None:
        self._ledger, self._claim, self._mark_path, self._rejected = ledger, claim, mark, rejected
        self._mark = -1
        self._last_step_at: float | None = None
        self._stepped = False

    def begin(self, training: Training, clock: StepClock) -> None:
        self._clock = clock
        lost = None
        if self._mark_path is not None:
            before = read_mark(self._mark_path)
            self._mark_path.parent.mkdir(parents=True, exist_ok=True)
            self._mark = os.open(self._mark_path, os.O_RDWR | os.O_CREAT, 0o644)
            if before is not None:
                lost, self._last_step_at = max(0, before[0] - _steps_done(training)), before[1]
                # Counted now: killed before its first step, the next attempt would count the same ones again.
                self._set_mark(training, self._last_step_at)
        self._ledger.add(
            "started",
            self._claim.number,
            owner=self._claim.owner,
            world_size=training.worker.world_size,
            epoch=training.position.epoch,
            step=training.position.step,
            steps_redone=lost,
            rejected=dict(self._rejected),
        )

    def step(self, training: Training, batch: Batch) -> None:
        now = time.time()
        self._set_mark(training, now)
        if not self._stepped:
            self._stepped = True
            since = now - self._last_step_at if self._last_step_at else None
            self._ledger.add("first_step", self._claim.number, seconds_since_last_step=since)

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._ledger.flush()

    def end(self, training: Training) -> None:
        if training.finished or training.paused:
            kind = "finished" if training.finished else "paused"
            self._ledger.add(kind, self._claim.number, seconds=dict(self._clock.seconds))
        else:
            self._ledger.add("stopped", self._claim.number, cause="stopped between two steps, as it was asked to")
        if self._mark >= 0:
            os.close(self._mark)
            self._mark = -1

    def _set_mark(self, training: Training, at: float) -> None:
        if self._mark >= 0:
            with contextlib.suppress(OSError):  # a count that is off ends no training
                os.pwrite(self._mark, _MARK.pack(_steps_done(training), at), 0)


def read_mark(path: Path) -> tuple[int, float] | None:
    """Steps done and the time of the last; None where no step was marked."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return _MARK.unpack(content) if len(content) == _MARK.size else None


def _steps_done(training: Training) -> int:
    return (training.position.epoch - 1) * training.steps_per_epoch + training.position.step
