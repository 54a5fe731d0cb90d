"""JsonLog: one JSON object a line for each thing of note in a training, for those who search logs by machine."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.loop.batches import Batch
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.observe.breakdown import Breakdown
from training.observe.clock import StepClock
from training.observe.gpu import gpu_figures

STEP_EVERY_S = 10.0


class JsonLog(Watcher):
    """Appends to `path`: `begin`, a `step` every 10 s, each `epoch`, and `end` with the breakdown and the verdict."""

    def __init__(self, path: Path, run_id: str) -> None:
        self._path, self._run_id = path, run_id
        self._stepped_at = time.monotonic()

    def begin(self, training: Training, clock: StepClock) -> None:
        self._clock = clock
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write("begin", training, world_size=training.worker.world_size, device=training.worker.device)

    def step(self, training: Training, batch: Batch) -> None:
        now = time.monotonic()
        if now - self._stepped_at >= STEP_EVERY_S:
            self._stepped_at = now
            # The first of a pipeline's stages sees no loss.
            loss = {"loss": float(training.loss_sum) / training.rows} if training.rows else {}
            self._write("step", training, **loss, **gpu_figures())

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._write("epoch", training, **asdict(record))

    def end(self, training: Training) -> None:
        breakdown = Breakdown(self._clock.seconds)
        self._write(
            "end", training, finished=training.finished, seconds=dict(breakdown.seconds), verdict=breakdown.verdict()
        )  # fmt: skip

    def _write(self, kind: str, training: Training, **facts: Any) -> None:
        head = {"time": time.time(), "run": self._run_id, "kind": kind, "at": [*asdict(training.position).values()]}
        with self._path.open("a") as stream:
            stream.write(json.dumps({**head, **facts}) + "\n")
