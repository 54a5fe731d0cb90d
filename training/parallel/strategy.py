"""Strategy: how one model is trained by this process and the others. The base is one process, which holds all of it."""

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, distributed, nn

from training.loop.losses import Loss
from training.loop.worker import Worker
from training.observe.clock import StepClock
from training.parallel.plan import Plan
from training.recipe import Recipe

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Part:
    """Rows that go through the model at once; `weight` makes the sum over parts and workers the batch's mean."""

    inputs: Tensor
    targets: Tensor
    weight: float

    @property
    def rows(self) -> int:
        """How many of them are counted: none where they stand in for rows that others have more."""
        return len(self.targets) if self.weight else 0


class Strategy:
    """In the order in which they are called: `spread` on the module, and on its average, then `wrap`, then the rest.

    What every process must call together says so. A full state is by the names of the whole model; a local one is what
    this process holds, by the names of what it holds.
    """

    def __init__(self, recipe: Recipe, worker: Worker, plan: Plan = Plan()) -> None:  # noqa: B008
        self.recipe, self.worker, self.plan = recipe, worker, plan
        self._low = AUTOCAST[recipe.precision]

    @property
    def reader(self) -> Worker:
        """Which share of each batch this process reads."""
        return self.worker

    @property
    def draws(self) -> int:
        """A number by which processes draw other dropout. Tensor peers, who compute the same, have the same one."""
        return self.worker.rank

    @property
    def counts(self) -> bool:
        """Whether this process knows the losses of the rows that it reads, and is the one to count them."""
        return True

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds everything: states are then made by all together."""
        return False

    @cached_property
    def file_group(self) -> distributed.ProcessGroup | None:
        """All processes, on the CPU, for what is said while a checkpoint is written beside the training, and nothing
        else; None alone. First asked for by all together.
        """
        if self.worker.world_size == 1:
            return None
        timeout = datetime.timedelta(seconds=self.plan.timeout_s)
        group: distributed.ProcessGroup | None = distributed.new_group(backend="gloo", timeout=timeout)
        return group

    def spread(self, module: nn.Module) -> None:
        """Leave in `module` what this process holds of it; whatever held its parameters must ask for them again."""

    def whole_name(self, name: str) -> str:
        """Under which name the whole model has this process's parameter `name`."""
        return name

    def wrap(self, module: nn.Module) -> None:
        """Make ready to train `module`, after `spread`."""
        self.model: nn.Module = torch.compile(module) if self.recipe.compile else module  # type: ignore[assignment]

    def rows_at_once(self, share: int) -> int:
        """How many of its `share` of a batch a process takes at once, where the recipe leaves it open."""
        return share

    def make_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.worker.device.split(":")[0], enabled=self.recipe.precision == "fp16")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.worker.device.split(":")[0], self._low, enabled=self._low is not None)

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
                with self.autocast():
                    logits_BC = self.model(part.inputs)
                mean = loss(part.inputs, logits_BC.float(), part.targets)
                clock.mark("forward")
                self.backward(scaler.scale(mean * part.weight))
                clock.mark("backward")
            total += mean.detach() * part.rows
        return total

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients down to `max_norm`; returns the norm of all of them before that, float32 []."""
        return nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)

    def logits(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """float32 [B, classes] of `module` or its average, in the mode that it is in; called by all together.

        Where `counts` is false they may be anything of that length.
        """
        logits: Tensor = module(inputs).float()
        return logits

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's running statistics: each has only seen its own part of the last batch."""

    def sum_over_workers(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def totals(self, loss_sum: Tensor, rows: int) -> tuple[Tensor, int]:
        """These sums of all workers; called by all together where `is_sharded`."""
        return loss_sum, rows

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Local tensors -> full ones, in the first process; called by all together where `is_sharded`."""
        return dict(tensors)

    def parts(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of local tensors those that this process writes, where each writes its own."""
        return dict(tensors)

    def scatter(self, full: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of `gather`: full tensors, which each process has -> the part of them that `like` has."""
        return {name: full[name] for name in like if name in full}
