"""What the GPU of this process is doing, where it has one."""

import contextlib


def gpu_figures() -> dict[str, float]:
    """`gpu_utilization` (a fraction, where NVML can be asked) and `gpu_memory_bytes`, the peak; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    figures = {"gpu_memory_bytes": float(torch.cuda.max_memory_allocated())}
    with contextlib.suppress(ModuleNotFoundError, RuntimeError):  # NVML's Python module is not a part of torch
        figures["gpu_utilization"] = torch.cuda.utilization() / 100
    return figures
