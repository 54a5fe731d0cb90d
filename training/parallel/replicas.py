"""Replicas: each process holds the whole model and reads its own rows; torch's DistributedDataParallel averages
the gradients.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.loop.losses import Loss
from training.loop.worker import Worker
from training.observe.clock import StepClock
from training.parallel.compression import make_hook
from training.parallel.exposed import ExposedWait
from training.parallel.plan import Plan
from training.parallel.strategy import Part, Strategy
from training.recipe import Recipe


class Replicas(Strategy):
    def __init__(self, recipe: Recipe, worker: Worker, plan: Plan) -> None:
        super().__init__(recipe, worker, plan)
        if recipe.precision == "fp16" and plan.compression in ("powersgd", "onebit"):
            raise ValueError(
                f"compression {plan.compression!r} remembers what it left out of a gradient, whose scale changes under "
                "precision 'fp16': use bf16, or compression fp16"
            )
        if plan.static_graph and 0 < recipe.micro_batch < -(-recipe.batch_size // worker.world_size):
            raise ValueError(
                f"static_graph with micro_batch {recipe.micro_batch}: DistributedDataParallel takes a static graph for "
                "whole batches alone; leave out one of the two"
            )

    def wrap(self, module: nn.Module) -> None:
        plan = self.plan
        size_mb = sum(p.numel() * p.element_size() for p in module.parameters()) / 2**20
        model = DistributedDataParallel(
            module,
            bucket_cap_mb=plan.bucket_mb if plan.overlap else size_mb + 1,
            gradient_as_bucket_view=True,
            static_graph=plan.static_graph,
            find_unused_parameters=plan.find_unused_parameters,
        )
        if plan.compression != "none":
            group = distributed.group.WORLD
            assert group is not None
            model.register_comm_hook(*make_hook(plan, group))
        if not plan.static_graph:
            settle_buckets(model)
        self._wait = ExposedWait(module.parameters(), self.worker.on_gpu)
        self.model = model
        self._accumulating = model.no_sync
        if self.recipe.compile:
            self.model = torch.compile(model)  # type: ignore[assignment]

    def accumulating(self) -> contextlib.AbstractContextManager[None]:
        return self._accumulating()

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        self._wait.end()

    def forward_backward(
        self, parts: Sequence[Part], loss: Loss, scaler: torch.amp.GradScaler, clock: StepClock
    ) -> Tensor:
        total = super().forward_backward(parts, loss, scaler, clock)
        clock.move("backward", "communication", self._wait.seconds())
        return total

    def share_buffers(self, module: nn.Module) -> None:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)

    def sum_over_workers(self, values: Sequence[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64, device=self.worker.device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def totals(self, loss_sum: Tensor, rows: int) -> tuple[Tensor, int]:
        """As if the others' rows were like one's own, so that a state needs no other worker: to ask them all, each
        checkpoint would have to come at the same step of each, and wait for them.
        """
        return loss_sum * self.worker.world_size, rows * self.worker.world_size


def settle_buckets(model: DistributedDataParallel) -> None:
    """Let DDP make its buckets for good before the first step, by a backward pass without a loss.

    It makes them anew once, in the order in which the first gradients came. Sums within another bucket are taken in
    another order, so the first step after a resume would give other bits than the same step of a training that was not
    interrupted. A static graph settles with its first step alone.
    """
    module = model.module
    forward = module.__dict__.pop("forward", None)
    module.forward = lambda: sum((parameter * 0.0).sum() for parameter in module.parameters())
    try:
        model().backward()
    finally:
        del module.__dict__["forward"]
        if forward is not None:
            module.forward = forward
    model.zero_grad(set_to_none=True)
