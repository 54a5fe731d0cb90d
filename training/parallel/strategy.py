"""Strategy: how one model is trained by several processes. Alone here, or as replicas whose gradients are averaged."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.loop.losses import Loss
from training.loop.worker import Worker
from training.observe.clock import StepClock
from training.recipe import Recipe

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Part:
    """Rows that go through the model at once; `weight` makes the sum over parts and workers the batch's mean."""

    inputs: Tensor
    targets: Tensor
    weight: float


class Strategy:
    """One process alone, which holds the whole model."""

    def __init__(self, recipe: Recipe, module: nn.Module, worker: Worker) -> None:
        self.module, self.worker = module, worker
        self.model = self._wrap(module)
        if recipe.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        self._low = AUTOCAST[recipe.precision]

    def _wrap(self, module: nn.Module) -> nn.Module:
        return module

    def accumulating(self) -> contextlib.AbstractContextManager[None]:
        """Within it gradients are added up here and not yet shared."""
        return contextlib.nullcontext()

    def forward_backward(
        self, parts: Sequence[Part], loss: Loss, scaler: torch.amp.GradScaler, clock: StepClock
    ) -> Tensor:
        """Leave the batch's gradient in the parameters; returns the sum of the rows' losses, float32 []."""
        total = torch.zeros((), device=self.worker.device)
        for part in parts:
            with contextlib.nullcontext() if part is parts[-1] else self.accumulating():
                with torch.autocast(self.worker.device.split(":")[0], self._low, enabled=self._low is not None):
                    logits_BC = self.model(part.inputs)
                mean = loss(part.inputs, logits_BC.float(), part.targets)
                clock.mark("forward")
                torch.autograd.backward(scaler.scale(mean * part.weight))
                clock.mark("backward")
            total += mean.detach() * len(part.inputs)
        return total


class Replicas(Strategy):
    """Each worker holds the model and reads its own rows; torch's DistributedDataParallel averages the gradients."""

    def _wrap(self, module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module, gradient_as_bucket_view=True)

    def accumulating(self) -> contextlib.AbstractContextManager[None]:
        assert isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync()


def make_strategy(recipe: Recipe, module: nn.Module, worker: Worker) -> Strategy:
    return (Replicas if worker.world_size > 1 else Strategy)(recipe, module, worker)
