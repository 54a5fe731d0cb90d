"""Exposed communication: how long gradients are waited for when there is nothing left to compute meanwhile."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class ExposedWait:
    """From the last gradient that is computed in a backward pass to its end, which is when all are shared.

    Which gradient is the last is seen in the first pass; from then on one parameter alone is watched. A hook on the
    communication itself would tell the same, but takes the sending of every bucket into the interpreter: 3 to 6 % of a
    step here, where this costs nothing that could be measured (docs/parallel.md).

    On a GPU both ends are events of its stream, read only where they have passed already: at the steps that a StepClock
    times, which wait for the GPU. At others `seconds` is 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._began: Any = None
        self._ended: Any = None
        self._last: int | None = None
        self._watched: dict[int, RemovableHandle] = {
            id(parameter): parameter.register_post_accumulate_grad_hook(self._computed)  # type: ignore[no-untyped-call]
            for parameter in parameters
            if parameter.requires_grad
        }

    def _computed(self, parameter: Tensor) -> None:
        self._last = id(parameter)
        self._began = self._now()

    def end(self) -> None:
        """After each backward pass."""
        self._ended = self._now()
        if len(self._watched) > 1 and self._last is not None:
            for number, handle in self._watched.items():
                if number != self._last:
                    handle.remove()
            self._watched = {self._last: self._watched[self._last]}

    def seconds(self) -> float:
        """Of the last pass."""
        if self._began is None or self._ended is None:
            return 0.0
        if self._on_gpu:
            return float(self._began.elapsed_time(self._ended)) / 1000 if self._ended.query() else 0.0
        return float(self._ended - self._began)

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
