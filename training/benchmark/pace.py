"""Pace: how fast steps go, alone or in turns with another training."""

import json
import time
from pathlib import Path

from training.loop.batches import Batch
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.observe.clock import StepClock

POLL_S = 0.001


class Pace(Watcher):
    """Times `steps` steps after the first `skip`, then stops the training."""

    def __init__(self, skip: int, steps: int) -> None:
        self._skip, self._steps, self._done = skip, steps, 0
        self._began = self.seconds = 0.0
        self.rows = 0

    def begin(self, training: Training, clock: StepClock) -> None:
        self._clock = clock

    def step(self, training: Training, batch: Batch) -> None:
        self._done += 1
        if self._done <= self._skip:
            self._began = time.perf_counter()
            self._clock.clear()
            return
        self.rows += batch.rows
        self.seconds = time.perf_counter() - self._began

    def wants_stop(self) -> bool:
        return self._done >= self._skip + self._steps

    @property
    def samples_per_s(self) -> float:
        return self.rows / self.seconds


class Turns(Watcher):
    """Trains in blocks, in turns with other trainings on the machine, and writes down how fast each block went.

    Who waits for its turn sleeps between two steps, so that each block has the machine for itself, and blocks that
    follow one another meet the same machine. The first block of each is not counted.
    """

    def __init__(self, folder: Path, me: int, participants: int, block_steps: int, blocks: int) -> None:
        self._folder, self._me, self._participants = folder, me, participants
        self._block_steps, self._blocks = block_steps, blocks
        self._steps = self._rows = self._done = 0

    def begin(self, training: Training, clock: StepClock) -> None:
        (self._folder / f"ready-{self._me}").touch()
        while len(list(self._folder.glob("ready-*"))) < self._participants:
            time.sleep(POLL_S)
        if self._me == 0:
            self._pass_to(0)
        self._wait()

    def step(self, training: Training, batch: Batch) -> None:
        self._steps, self._rows = self._steps + 1, self._rows + batch.rows
        if self._steps < self._block_steps:
            return
        seconds = time.perf_counter() - self._began
        if self._done:
            with (self._folder / f"blocks-{self._me}.jsonl").open("a") as stream:
                stream.write(json.dumps({"rows": self._rows, "seconds": seconds}) + "\n")
        self._done += 1
        self._pass_to((self._me + 1) % self._participants)
        if not self.wants_stop():
            self._wait()

    def wants_stop(self) -> bool:
        return self._done > self._blocks

    def _wait(self) -> None:
        while not (self._folder / f"turn-{self._me}").exists():
            time.sleep(POLL_S)
        (self._folder / f"turn-{self._me}").unlink()
        self._steps = self._rows = 0
        self._began = time.perf_counter()

    def _pass_to(self, participant: int) -> None:
        (self._folder / f"turn-{participant}").touch()


def block_count(folder: Path, participant: int) -> int:
    """How many blocks it has counted so far."""
    path = folder / f"blocks-{participant}.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def block_rates(folder: Path, participant: int) -> list[float]:
    """Samples/s of each counted block."""
    lines = (folder / f"blocks-{participant}.jsonl").read_text().splitlines()
    return [block["rows"] / block["seconds"] for block in map(json.loads, lines)]
