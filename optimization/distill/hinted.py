"""Hinted: a student in training beside the projections by which its hints are learned.

fit() takes it for one module: the projections are stepped, averaged, shared between workers, kept in checkpoints and
resumed as all weights are. What is kept of it in the end is the student.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optimization.distill.layers import CHANNEL_AXIS, Projection, output_sizes, tap_layers
from optimization.distill.parameters import Hint
from training.encoding import Encoding

_STUDENT = "student."


class _Joined(torch.autograd.Function):
    """Tensors as they are, whose gradients go on only when those of all are there.

    Spread weights are gathered again when the gradient of the logits comes. That of a hint must not overtake it.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients


class Hinted(nn.Module):
    """A batch -> the student's logits. In training mode `take` then has what each hint foretells of the teacher."""

    def __init__(self, student: nn.Module, hints: Sequence[Hint], encoding: Encoding, teacher: nn.Module) -> None:
        """Raises ValueError where a layer does not exist, or is not of the kind of the other."""
        super().__init__()
        names = [hint.student for hint in hints], [hint.teacher for hint in hints]
        self._taps = tap_layers(student, names[0], "student")
        own = output_sizes(student, self._taps, names[0], encoding)
        theirs = output_sizes(teacher, tap_layers(teacher, names[1], "teacher"), names[1], encoding)
        for hint, student_size, teacher_size in zip(hints, own, theirs, strict=True):
            alike = len(student_size) == len(teacher_size)
            if not alike or (len(student_size) == 3 and student_size[1] != teacher_size[1]):
                raise ValueError(
                    f"hint {hint.teacher}:{hint.student}: the teacher's layer answers a row with "
                    f"{list(teacher_size)}, the student's with {list(student_size)}: give layers of one kind"
                )
        self.student = student
        axes = [CHANNEL_AXIS[len(size)] for size in own]
        self.projections = nn.ModuleList(
            Projection(student_size[axis], teacher_size[axis], axis)
            for student_size, teacher_size, axis in zip(own, theirs, axes, strict=True)
        )
        self._foretold: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        logits_BC: Tensor = self.student(inputs)
        caught = [tap.take() for tap in self._taps]
        if not self.training:
            return logits_BC
        # Here and not in the loss: where weights are spread over processes they are whole during this call alone.
        foretold = [projection(x) for projection, x in zip(self.projections, caught, strict=True)]
        logits_BC, *self._foretold = _Joined.apply(logits_BC, *foretold)  # type: ignore[no-untyped-call]
        return logits_BC

    def take(self) -> list[Tensor]:
        """The projected outputs of the last call, a hint each; they are let go of here."""
        foretold, self._foretold = self._foretold, []
        return foretold


def student_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's own among the weights of a Hinted, by the student's names."""
    return {name.removeprefix(_STUDENT): tensor for name, tensor in weights.items() if name.startswith(_STUDENT)}
