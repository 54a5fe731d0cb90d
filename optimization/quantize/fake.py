"""Modules that compute as an INT8 graph will, in float32, and let gradients through (`frozen.py` makes the graph).

Rounding is half to even and a zero point is an integer, as ONNX's QuantizeLinear has it. Gradients pass a rounding as
if it were none (the straight-through estimator, Bengio et al. 2013); so those of a range come out as in LSQ+
(Bhalgat et al. 2020): what is clipped pulls its end of the range, what is rounded pulls the step.

Shape suffixes: B batch, O output channels, I input channels, H height, W width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 255  # of an 8-bit range
LARGEST_INT32 = 2**31 - 1
SMALLEST_STEP = 1e-8
# Ranges are kept in this unit. Adam moves every parameter by about its learning rate; a range is some ten times as
# large as a weight, and would hardly move at the pace of one.
RANGE_UNIT = 32.0


def straight_round(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged."""
    return x + (torch.round(x) - x).detach()


class FakeQuantize(nn.Module):
    """An activation to the nearest of 256 values between `low` and `high`; both hold 0 in between.

    `low` and `high`, in units of RANGE_UNIT, are parameters where the range is learned. What comes out of a ReLU
    (`one_sided`) has a `low` of 0, which is none.
    """

    low: Tensor
    high: Tensor

    def __init__(self, signed: bool, one_sided: bool, learned: bool, symmetric: bool) -> None:
        super().__init__()
        self.least = -128 if signed else 0
        self.symmetric = symmetric
        self.enabled = True  # off while ranges are looked for
        self._keep("low", 0.0 if one_sided else -1.0, learned and not one_sided)
        self._keep("high", 1.0, learned)

    def _keep(self, name: str, end: float, learned: bool) -> None:
        value = torch.tensor([end / RANGE_UNIT])
        if learned:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        self.low.fill_(low / RANGE_UNIT)
        self.high.fill_(high / RANGE_UNIT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` on the grid, and the grid's step, float32 []."""
        step, zero = self.grid(x.numel())
        if not self.enabled:
            return x, step
        levels = (straight_round(x.float() / step) + zero).clamp(self.least, self.least + STEPS)
        return (levels - zero) * step, step

    def grid(self, values: int = 1) -> tuple[Tensor, Tensor]:
        """Its step and its zero point, float32 []; `values` are how many lie on it, for the gradient."""
        low, high = self._range(values)
        step = ((high - low) / STEPS).clamp(min=SMALLEST_STEP)
        return step, straight_round(self.least - low / step).clamp(self.least, self.least + STEPS)

    def _range(self, values: int) -> tuple[Tensor, Tensor]:
        """Its gradient is divided by the root of how many values add to it and of the steps, as in LSQ (Esser 2020)."""
        low = self.low.reshape(()).clamp(max=0) * RANGE_UNIT
        high = self.high.reshape(()).clamp(min=0) * RANGE_UNIT
        if self.symmetric:
            high = torch.maximum(-low, high)
            low = -high * ((STEPS + 1) / (STEPS - 1))  # zero lies at 128 of 0..255, so there is a step more below it
        if not self.training:
            return low, high
        share = 1 / math.sqrt(values * STEPS)
        return _scaled_gradient(low, share), _scaled_gradient(high, share)


class Weighted(nn.Module):
    """A layer whose weight is INT8 with a scale a channel (or one), and whose bias is INT32 in the products' step."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, per_channel: bool, reduce_range: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.per_channel = per_channel
        self.largest = 64 if reduce_range else 127
        self.enabled = True

    def quantized(self, input_step: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias on their grids, for an input whose grid has steps of `input_step`."""
        if not self.enabled:
            return self.weight, self.bias
        step_O = self.steps()
        weight = _on_grid(self.weight, step_O, self.largest)
        return weight, None if self.bias is None else _on_grid(self.bias, step_O * input_step.detach(), LARGEST_INT32)

    def steps(self) -> Tensor:
        """The step of each channel's grid, float32 [O], or of all, []."""
        size = self.weight.detach().abs().float()
        greatest = size.amax(tuple(range(1, size.ndim))) if self.per_channel else size.max()
        return (greatest / self.largest).clamp(min=SMALLEST_STEP)


class QuantizedConv2d(Weighted):
    def __init__(self, layer: nn.Conv2d, per_channel: bool, reduce_range: bool) -> None:
        super().__init__(layer, per_channel, reduce_range)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups = layer.groups

    def forward(self, x_BIHW: Tensor, input_step: Tensor) -> Tensor:
        weight_OIHW, bias_O = self.quantized(input_step)
        return functional.conv2d(x_BIHW, weight_OIHW, bias_O, self.stride, self.padding, self.dilation, self.groups)


class QuantizedLinear(Weighted):
    def forward(self, x_BI: Tensor, input_step: Tensor) -> Tensor:
        weight_OI, bias_O = self.quantized(input_step)
        return functional.linear(x_BI, weight_OI, bias_O)


def levels_of(values: Tensor, step_O: Tensor, largest: int) -> Tensor:
    """The integers, as floats, that stand for `values` on a grid without zero point."""
    return torch.round(values.detach().float() / _along(values, step_O)).clamp(-largest, largest)


def _on_grid(values: Tensor, step_O: Tensor, largest: int) -> Tensor:
    on_grid = levels_of(values, step_O, largest) * _along(values, step_O)
    return values + (on_grid - values).detach()


def _along(values: Tensor, step_O: Tensor) -> Tensor:
    return step_O.reshape(-1, *[1] * (values.ndim - 1)) if step_O.ndim else step_O


def _scaled_gradient(value: Tensor, share: float) -> Tensor:
    return value * share + (value - value * share).detach()
