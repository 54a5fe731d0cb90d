"""Pipeline: a model cut into runs of blocks, one a process, through which the parts of a batch follow each other.

The schedule is torch's 1F1B (Narayanan et al. 2019): a process works backward on a part as soon as it can, and so holds
the activations of no more parts than there are stages. Each stage may be spread itself.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from training.loop.losses import Loss
from training.loop.worker import Worker
from training.observe.clock import StepClock
from training.parallel.layout import Piece, cut, owns
from training.parallel.plan import Plan
from training.parallel.spread import Spread
from training.parallel.strategy import Part
from training.recipe import Recipe

# Parts in which a batch goes through where the recipe leaves it open. Of n parts, s stages keep a process waiting for
# (s - 1) / (n + s - 1) of the time: a fifth at two stages.
PARTS_A_STAGE = 2


class Pipeline(Spread):
    def __init__(self, recipe: Recipe, worker: Worker, plan: Plan) -> None:
        super().__init__(recipe, worker, plan)
        self._runs: dict[int, _Run] = {}  # by the module's id: the one in training, and its average
        self._lines: dict[tuple[int, bool], _Line] = {}  # the last one that each was trained or evaluated with

    @property
    def counts(self) -> bool:
        return self.grid.is_last_stage and super().counts

    def _keep_stage(self, module: nn.Module) -> None:
        stages, stage = self.grid.shape.pipeline, self.grid.stage
        run = _Run(cut(module, stages)[stage], cut(outline(module).eval(), stages)[: stage + 1], self.autocast)
        prune(module, run.pieces)
        module.forward = run
        self._runs[id(module)] = run

    def rows_at_once(self, share: int) -> int:
        return -(-share // (PARTS_A_STAGE * self.grid.shape.pipeline))

    def forward_backward(
        self, parts: Sequence[Part], loss: Loss, scaler: torch.amp.GradScaler, clock: StepClock
    ) -> Tensor:
        count = max(len(parts), self.grid.shape.pipeline)
        inputs = [part.inputs for part in parts]
        total = torch.zeros((), device=self.worker.device)
        scaler.scale(total)  # which only the last stage does below; it begins with the first call

        def part_loss(logits_BC: Tensor, number: Tensor) -> Tensor:
            if int(number) >= len(parts):
                return logits_BC.sum() * 0.0
            part = parts[int(number)]
            mean = loss(part.inputs, logits_BC[: len(part.inputs)].float(), part.targets)
            total.add_(mean.detach() * part.rows)
            return scaler.scale(mean * part.weight)

        began = time.perf_counter()
        line = self._line(self.model, inputs[0], count, trains=True)
        line.run(inputs, part_loss)
        elapsed_s = time.perf_counter() - began
        clock.mark("backward")
        if not self.worker.on_gpu:  # which works behind the interpreter's back: a profiler has to tell there
            clock.move("backward", "forward", line.stage.forward_s)
            clock.move("backward", "communication", elapsed_s - line.stage.forward_s - line.stage.backward_s)
        return total

    def logits(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """In the last stage; the others get no number a row."""
        stages = self.grid.shape.pipeline
        parts = torch.split(inputs, -(-len(inputs) // stages))
        logits_BC = self._line(module, parts[0], stages, trains=False).run(parts)
        if logits_BC is None:
            return inputs.new_empty(len(inputs), 0, dtype=torch.float32)
        # Only the last part is filled up, and whole parts after it.
        return logits_BC[: len(inputs)]

    def _line(self, module: nn.Module, part: Tensor, count: int, trains: bool) -> "_Line":
        """A schedule has its shapes from its making; it is made anew when they change, which costs next to nothing."""
        line = self._lines.get((id(module), trains))
        if line is None or line.shape != part.shape or line.count != count:
            takes, makes = self._runs[id(module)].shapes(part)
            stage = _TimedStage(
                module, self.grid.stage, self.grid.shape.pipeline, torch.device(self.worker.device),
                input_args=takes, output_args=makes, group=self.grid.mesh.get_group("pipeline"),
            )  # fmt: skip
            line = self._lines[id(module), trains] = _Line(stage, count, part.shape, trains)
        return line


class _Run:
    """The pieces of one stage as its module's forward pass."""

    def __init__(
        self, pieces: list[Piece], outlines: list[list[Piece]], autocast: Callable[[], torch.autocast]
    ) -> None:
        self.pieces, self._outlines, self._autocast = pieces, outlines, autocast

    def __call__(self, x: Tensor, inputs: Tensor) -> Tensor:
        with self._autocast():
            for piece in self.pieces:
                x = piece.run(x, inputs)
        return x.float().contiguous()

    def shapes(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """What this stage takes and makes of a part of the batch, as tensors without memory."""
        inputs = takes = x = torch.empty_like(part, device="meta")
        with torch.no_grad():
            for run in self._outlines:
                takes = x
                for piece in run:
                    x = piece.run(x, inputs)
        floats = [torch.empty(t.shape, device="meta", requires_grad=True) for t in (takes, x)]
        return (takes if len(self._outlines) == 1 else floats[0]), floats[1]


class _TimedStage(PipelineStage):
    """Knows how long it computed, in seconds; the rest of a step it waited for its neighbours."""

    forward_s = backward_s = 0.0

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        output = super().forward_one_chunk(*args, **kwargs)
        self.forward_s += time.perf_counter() - began
        return output

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        super().backward_one_chunk(*args, **kwargs)
        self.backward_s += time.perf_counter() - began


@dataclass
class _Line:
    """A schedule over `count` parts of `shape`."""

    stage: _TimedStage
    count: int
    shape: torch.Size
    trains: bool

    def __post_init__(self) -> None:
        self._loss: Callable[[Tensor, Tensor], Tensor] | None = None
        if self.trains:
            self._schedule: Any = Schedule1F1B(self.stage, self.count, loss_fn=self._part_loss, scale_grads=False)
        else:
            self._schedule = ScheduleGPipe(self.stage, self.count)

    def run(self, parts: Sequence[Tensor], loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor | None:
        """`loss` gets a part's logits and its number. Returns all logits in the last stage of an evaluation."""
        self.stage.forward_s = self.stage.backward_s = 0.0
        self._loss = loss
        inputs = self._filled(parts)
        taken = (inputs,) if self.stage.is_first else ()
        if not self.trains:
            logits: Tensor | None = self._schedule.step(*taken, inputs=inputs)
            return logits
        numbers = torch.arange(self.count) if self.stage.is_last else None
        self._schedule.step(*taken, inputs=inputs, target=numbers, return_outputs=False)
        return None

    def _filled(self, parts: Sequence[Tensor]) -> Tensor:
        """`count` parts as long as the first: filled up with their own rows, for whose loss nobody asks."""
        rows = self.shape[0]
        filled = [part if len(part) == rows else _filled_up(part, rows) for part in parts]
        return torch.cat([*filled, *filled[-1:] * (self.count - len(filled))])

    def _part_loss(self, logits_BC: Tensor, number: Tensor) -> Tensor:
        assert self._loss is not None
        began = time.perf_counter()
        loss = self._loss(logits_BC, number)
        self.stage.forward_s += time.perf_counter() - began
        return loss


def _filled_up(part: Tensor, rows: int) -> Tensor:
    return part[torch.arange(rows, device=part.device).clamp(max=len(part) - 1)]


def outline(module: nn.Module) -> nn.Module:
    """A copy without memory for its numbers, which tells shapes. In its evaluation mode it draws nothing at random."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    return copy.deepcopy(module, memo)


def prune(module: nn.Module, run: Sequence[Piece]) -> None:
    """Let go of every parameter and buffer that is not of `run`; the names of those that stay are as before."""
    for prefix, child in module.named_modules():
        for tensors in (child._parameters, child._buffers):
            for name in tensors:
                if not owns(run, f"{prefix}.{name}" if prefix else name):
                    tensors[name] = None
