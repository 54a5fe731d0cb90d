"""What the GPU of this process is doing, where it has one."""

import contextlib
import statistics
import time

from training.loop.batches import Batch
from training.loop.training import Training
from training.loop.watcher import Watcher

LOOK_EVERY_S = 0.5


def gpu_figures() -> dict[str, float]:
    """`gpu_utilization` (a fraction, where NVML can be asked) and `gpu_memory_bytes`, the peak; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    figures = {"gpu_memory_bytes": float(torch.cuda.max_memory_allocated())}
    with contextlib.suppress(ModuleNotFoundError, RuntimeError):  # NVML's Python module is not a part of torch
        figures["gpu_utilization"] = torch.cuda.utilization() / 100
    return figures


class GpuUse(Watcher):
    """Looks at the GPU between steps, once in LOOK_EVERY_S."""

    def __init__(self) -> None:
        self._looked_at = time.monotonic()
        self._looks: list[dict[str, float]] = []

    def step(self, training: Training, batch: Batch) -> None:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._looks.append(gpu_figures())

    def take(self) -> dict[str, float]:
        """`gpu_figures` since they were last taken, now included: the mean utilization, and the peak of memory."""
        looks, self._looks = [*self._looks, gpu_figures()], []
        used = [look["gpu_utilization"] for look in looks if "gpu_utilization" in look]
        return {**looks[-1], **({"gpu_utilization": statistics.fmean(used)} if used else {})}
