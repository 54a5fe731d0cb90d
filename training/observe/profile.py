"""Profile: a trace of some steps by torch's profiler, for chrome://tracing or Perfetto."""

from pathlib import Path

import torch

from training.loop.batches import Batch
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.observe.clock import StepClock

WAIT_STEPS, WARM_STEPS, TRACED_STEPS = 5, 3, 8


class Profile(Watcher):
    """Traces TRACED_STEPS steps after the first ones, which are not like the rest, into `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, training: Training, clock: StepClock) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if training.worker.on_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=WAIT_STEPS, warmup=WARM_STEPS, active=TRACED_STEPS, repeat=1),
            on_trace_ready=self._write,
        )
        self._profiler.start()

    def step(self, training: Training, batch: Batch) -> None:
        self._profiler.step()

    def end(self, training: Training) -> None:
        self._profiler.stop()
        if not self._path.exists():
            print(f"no trace: the training had fewer than {WAIT_STEPS + WARM_STEPS + TRACED_STEPS} steps", flush=True)

    def _write(self, profiler: torch.profiler.profile) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._path))
        print(f"trace of {TRACED_STEPS} steps: {self._path}", flush=True)
