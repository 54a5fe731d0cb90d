"""The outputs of layers by name: caught while their model runs, their sizes, and the loss of one against another.

Shape suffixes: B batch, C channels, H height, W width, L tokens, S the student's channels, T the teacher's channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.encoding import Encoding
from training.models.architecture import example_row

# Number of axes of a layer's output -> which of them are its channels: [B, C], [B, L, C] and [B, C, H, W].
CHANNEL_AXIS = {2: 1, 3: 2, 4: 1}
_SMALLEST_SQUARE = 1e-12
_NAMES_SHOWN = 12


class Tap:
    """Catches what a layer answers. An object and no closure, so that a copy of the model has taps of its own."""

    def __init__(self) -> None:
        self._caught: Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._caught = output[0] if isinstance(output, tuple) else output  # a recurrent layer's states come first

    def take(self) -> Tensor:
        """What was caught last; it is let go of here."""
        caught, self._caught = self._caught, None
        assert caught is not None, "the layer ran"
        return caught


def tap_layers(module: nn.Module, names: Sequence[str], whose: str) -> list[Tap]:
    """A Tap on each named layer; raises ValueError where `module` has no such layer."""
    known = dict(module.named_modules())
    taps = []
    for name in names:
        if name not in known or not name:
            there = [one for one in known if one]
            more = " ..." if len(there) > _NAMES_SHOWN else ""
            raise ValueError(
                f"the {whose} has no layer {name!r}; it has {', '.join(there[:_NAMES_SHOWN])}{more} "
                "(the names of named_modules())"
            )
        taps.append(Tap())
        known[name].register_forward_hook(taps[-1])
    return taps


def output_sizes(module: nn.Module, taps: Sequence[Tap], names: Sequence[str], encoding: Encoding) -> list[torch.Size]:
    """What each tapped layer answers to one row; raises ValueError where it is nothing that a hint can be of."""
    was_training = module.training
    try:
        with torch.no_grad():
            module.eval()(example_row(encoding))
    finally:
        module.train(was_training)
    sizes = []
    for name, tap in zip(names, taps, strict=True):
        output = tap.take()
        if not isinstance(output, Tensor) or output.ndim not in CHANNEL_AXIS:
            answered = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layer {name!r} answers with {answered}: a hint is of a layer that answers [B, C], [B, L, C] or "
                "[B, C, H, W]"
            )
        sizes.append(output.shape)
    return sizes


class Projection(nn.Module):
    """A linear map of the channels, the same at each position: a 1x1 convolution, or a linear layer.

    It is of no type that an optimizer takes for a hidden layer of the model.
    """

    def __init__(self, student_channels: int, teacher_channels: int, axis: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(teacher_channels, student_channels))
        self.bias = nn.Parameter(torch.zeros(teacher_channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        self._axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """S channels -> T channels along the axis of channels."""
        return functional.linear(x.movedim(self._axis, -1), self.weight, self.bias).movedim(-1, self._axis)


def hint_loss(foretold: Tensor, of_teacher: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """The squared distance of a projected layer of the student from the teacher's, as a share of the latter's square;
    the mean over the rows, float32 [].

    FitNets (Romero et al. 2015, arXiv:1412.6550, equation 3) take the distance itself; the share weighs alike whatever
    the scale of a layer is. A row on which the teacher's layer is silent counts as 0. Images of unequal size are
    averaged down to the smaller. `mask_BL` leaves out padding.
    """
    foretold, of_teacher = foretold.float(), of_teacher.float()
    if foretold.ndim == 4 and foretold.shape != of_teacher.shape:
        height, width = (min(foretold.shape[axis], of_teacher.shape[axis]) for axis in (2, 3))
        foretold, of_teacher = (functional.adaptive_avg_pool2d(x, (height, width)) for x in (foretold, of_teacher))
    distance, square = (foretold - of_teacher).square(), of_teacher.square()
    if mask_BL is not None and foretold.ndim == 3:
        distance, square = distance * mask_BL.unsqueeze(-1), square * mask_BL.unsqueeze(-1)
    distance_B, square_B = distance.flatten(1).sum(dim=1), square.flatten(1).sum(dim=1)
    shares_B = distance_B / square_B.clamp(min=_SMALLEST_SQUARE)
    return torch.where(square_B > _SMALLEST_SQUARE, shares_B, 0.0).mean()
