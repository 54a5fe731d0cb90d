"""Frozen: a fake-quantized module as the exporter wants it, with Q/DQ of ONNX and INT8 weights.

The exporter has no form of PyTorch's own quantized operators that ONNX Runtime would fuse, but it takes any operator of
ONNX by name. The integers are computed here, since it folds no constants of the size of a weight.

Shape suffixes: B batch, O output channels, I input channels, H height, W width.
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from optimization.quantize.fake import LARGEST_INT32, FakeQuantize, QuantizedConv2d, Weighted, levels_of


class FrozenQuantize(nn.Module):
    step: Tensor
    zero: Tensor

    def __init__(self, quantizer: FakeQuantize) -> None:
        super().__init__()
        step, zero = quantizer.grid()
        self.kind = torch.int8 if quantizer.least else torch.uint8
        self.register_buffer("step", step.detach().clone())
        self.register_buffer("zero", zero.detach().round().to(self.kind))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, self.step, self.zero), {}, dtype=self.kind, shape=x.shape
        )
        return _dequantized(levels, self.step, self.zero), self.step


class FrozenLayer(nn.Module):
    """A weighted layer behind an input whose grid has steps of `input_step`; INT32 biases are in the products' step."""

    levels: Tensor
    step_O: Tensor
    zero_O: Tensor
    bias_levels_O: Tensor
    bias_step_O: Tensor
    bias_zero_O: Tensor

    def __init__(self, layer: Weighted, input_step: Tensor) -> None:
        super().__init__()
        step_O = layer.steps()
        self.register_buffer("levels", levels_of(layer.weight, step_O, layer.largest).to(torch.int8))
        self.register_buffer("step_O", step_O)
        self.register_buffer("zero_O", torch.zeros_like(step_O, dtype=torch.int8))
        self.has_bias = layer.bias is not None
        if layer.bias is not None:
            bias_step_O = step_O * input_step
            levels_O = levels_of(layer.bias, bias_step_O, LARGEST_INT32)
            # Float32 has no 2^31 - 1: it would round up to what INT32 has not.
            self.register_buffer("bias_levels_O", levels_O.double().clamp(max=LARGEST_INT32).to(torch.int32))
            self.register_buffer("bias_step_O", bias_step_O)
            self.register_buffer("bias_zero_O", torch.zeros_like(bias_step_O, dtype=torch.int32))

    def weights(self) -> tuple[Tensor, Tensor | None]:
        weight = _dequantized(self.levels, self.step_O, self.zero_O)
        return weight, _dequantized(self.bias_levels_O, self.bias_step_O, self.bias_zero_O) if self.has_bias else None


class FrozenConv2d(FrozenLayer):
    def __init__(self, layer: QuantizedConv2d, input_step: Tensor) -> None:
        super().__init__(layer, input_step)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups = layer.groups

    def forward(self, x_BIHW: Tensor, input_step: Tensor) -> Tensor:
        weight_OIHW, bias_O = self.weights()
        return functional.conv2d(x_BIHW, weight_OIHW, bias_O, self.stride, self.padding, self.dilation, self.groups)


class FrozenLinear(FrozenLayer):
    def forward(self, x_BI: Tensor, input_step: Tensor) -> Tensor:
        weight_OI, bias_O = self.weights()
        return functional.linear(x_BI, weight_OI, bias_O)


def frozen(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of what `with_fake_quantizers` made, for the exporter alone: it does not compute."""
    made = copy.deepcopy(module).eval()
    steps = {name: part.grid()[0].detach() for name, part in made.named_modules() if isinstance(part, FakeQuantize)}
    for number, node in enumerate(made.graph.nodes):
        layer = made.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Weighted):
            # A layer that is used twice has a bias for each of its inputs.
            pair = node.args[1].args[0]
            input_step = steps[str(pair.target)]
            name = f"{node.target}_at_{number}"
            if isinstance(layer, QuantizedConv2d):
                made.add_submodule(name, FrozenConv2d(layer, input_step))
            else:
                made.add_submodule(name, FrozenLinear(layer, input_step))
            node.target = name
    for name, part in list(made.named_modules()):
        if isinstance(part, FakeQuantize):
            made.set_submodule(name, FrozenQuantize(part))
    made.delete_all_unused_submodules()
    made.recompile()
    return made


def _dequantized(levels: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (levels, step, zero),
        {"axis": 0} if step.ndim else {},
        dtype=torch.float32,
        shape=levels.shape,
    )
