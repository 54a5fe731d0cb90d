"""StepClock: where the time of training steps goes."""

import time
from typing import Literal, get_args

Phase = Literal["data", "transfer", "forward", "backward", "communication", "optimizer", "checkpoint", "validation"]
PHASES: tuple[Phase, ...] = get_args(Phase)
# A GPU works behind the interpreter's back: one step in so many is timed, with a wait for the GPU after each phase, and
# stands for the others.
GPU_SAMPLE_EVERY = 50


class StepClock:
    """Adds up the seconds of each phase; `mark` ends one that began where the one before it ended."""

    def __init__(self, on_gpu: bool = False) -> None:
        self._on_gpu = on_gpu
        self._since = time.perf_counter()
        self._steps = 0
        self._weight = 1  # how many steps the one under way stands for
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)

    def start_step(self) -> None:
        self._steps += 1
        if self._on_gpu:
            self._weight = 0 if self._steps % GPU_SAMPLE_EVERY else GPU_SAMPLE_EVERY
            self._wait()
        self._since = time.perf_counter()

    def end_steps(self) -> None:
        """What follows, until the next step starts, comes once an epoch and is timed each time."""
        self._weight = 1
        self._wait()
        self._since = time.perf_counter()

    def mark(self, phase: Phase) -> None:
        self._wait()
        now = time.perf_counter()
        self.seconds[phase] += (now - self._since) * self._weight
        self._since = now

    def move(self, source: Phase, target: Phase, seconds: float) -> None:
        """Count `seconds` of `source` as `target`'s: what only the inside of a phase could tell."""
        self.seconds[source] -= seconds * self._weight
        self.seconds[target] += seconds * self._weight

    def clear(self) -> None:
        """Begin to count anew."""
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def _wait(self) -> None:
        if self._on_gpu and self._weight:
            import torch

            torch.cuda.synchronize()
