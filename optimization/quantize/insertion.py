"""Insertion: a float module -> one that computes as its INT8 graph will: fake quantizers where ONNX Runtime has Q/DQ.

Convolutions and linear layers, additions, products and concatenations have 8-bit inputs and outputs; what only moves
or picks values keeps their range; the rest stays in float, and so does the last layer's answer. A ReLU is one with what
it follows. Batch normalization is folded into the weights first, since the graph has none.
"""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from optimization.quantize.error import QuantizationError
from optimization.quantize.fake import FakeQuantize, QuantizedConv2d, QuantizedLinear, Weighted

NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)
RELU_MODULES = (nn.ReLU, nn.ReLU6)
RELU_CALLS: tuple[Any, ...] = (functional.relu, functional.relu6, torch.relu, "relu")
JOIN_CALLS: tuple[Any, ...] = (operator.add, torch.add, "add", operator.mul, torch.mul, "mul")
CONCATENATIONS: tuple[Any, ...] = (torch.cat, torch.concat)
CARRYING_MODULES = (nn.MaxPool2d, nn.Flatten, nn.Identity)
CARRYING_CALLS: tuple[Any, ...] = (
    *(operator.getitem, functional.pad, functional.max_pool2d, torch.flatten, torch.reshape, torch.permute),
    *("flatten", "view", "reshape", "permute", "transpose", "contiguous"),
)


@dataclass(frozen=True)
class Numerics:
    """As StaticInt8 has them; `learned`: ranges are parameters."""

    signed: bool
    per_channel: bool
    reduce_range: bool
    symmetric: bool
    learned: bool


def with_fake_quantizers(module: nn.Module, numerics: Numerics, example: Tensor) -> fx.GraphModule:
    """A copy of `module` in eval mode; raises QuantizationError where its computation cannot be followed.

    `example` is any batch that it takes: what is a number or holds integers is told from what can be quantized by it.
    """
    traced = _traced(module)
    _fold_normalization(traced)
    _write_nothing_in_place(traced)
    insertion = _Insertion(traced, numerics, _Floats(traced).found_on(example))
    for node in list(traced.graph.nodes):
        insertion.visit(node)
    if not insertion.weighted:
        raise QuantizationError("the model has no convolution and no linear layer that could be INT8")
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _traced(module: nn.Module) -> fx.GraphModule:
    recurrent = [name for name, part in module.named_modules() if isinstance(part, nn.RNNBase)]
    if recurrent:
        raise QuantizationError(
            f"{', '.join(recurrent)} is recurrent, for which there is no static INT8: use DynamicInt8 instead"
        )
    try:
        return fx.symbolic_trace(copy.deepcopy(module).eval())
    except Exception as error:  # tracing raises whatever the module's own code does on its stand-in for a tensor
        raise QuantizationError(
            f"the model's computation cannot be followed by torch.fx, which quantization-aware training needs: {error}"
        ) from error


def _fold_normalization(traced: fx.GraphModule) -> None:
    """Batch normalization into the convolution or linear layer that it alone follows."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    for node in list(traced.graph.nodes):
        normalization = _module(traced, node)
        source = node.args[0] if node.args else None
        if not isinstance(normalization, NORMALIZATIONS) or not isinstance(source, fx.Node) or len(source.users) > 1:
            continue
        layer = _module(traced, source)
        if isinstance(layer, nn.Conv2d) and _calls(traced, source.target) == 1:
            fused: nn.Module = fuse_conv_bn_eval(layer, normalization)
        elif isinstance(layer, nn.Linear) and _calls(traced, source.target) == 1:
            fused = fuse_linear_bn_eval(layer, normalization)
        else:
            continue
        traced.set_submodule(str(source.target), fused)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)


class _Floats(fx.Interpreter):
    """Finds the nodes that give float tensors."""

    def found_on(self, example: Tensor) -> set[fx.Node]:
        self._found: set[fx.Node] = set()
        with torch.no_grad():
            self.run(example)
        return self._found

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if isinstance(made, Tensor) and made.is_floating_point():
            self._found.add(n)
        return made


class _Insertion:
    def __init__(self, traced: fx.GraphModule, numerics: Numerics, floats: set[fx.Node]) -> None:
        self._traced, self._numerics, self._floats = traced, numerics, floats
        # What a fake quantizer gave -> the step of its grid, and its name.
        self._given: dict[fx.Node, tuple[fx.Node, str]] = {}
        self.weighted = 0

    def visit(self, node: fx.Node) -> None:
        layer = _module(self._traced, node)
        if isinstance(layer, nn.Conv2d | nn.Linear) and _is_plain(layer):
            self._exchange(str(node.target), layer)
            layer = _module(self._traced, node)
        if isinstance(layer, Weighted):
            value, step = self._quantized(_argument(node))
            node.args, node.kwargs = (value, step), {}
            self.weighted += 1
            self._quantize_answer(node)
        elif node in self._floats and (_joins_two(node) or _is_call(node, CONCATENATIONS)):
            for argument in dict.fromkeys(node.all_input_nodes):
                if argument in self._floats or argument in self._given:
                    self._quantized(argument)
            self._quantize_answer(node)

    def _exchange(self, name: str, layer: nn.Conv2d | nn.Linear) -> None:
        per_channel, reduce_range = self._numerics.per_channel, self._numerics.reduce_range
        made: Weighted
        if isinstance(layer, nn.Conv2d):
            made = QuantizedConv2d(layer, per_channel, reduce_range)
        else:
            made = QuantizedLinear(layer, per_channel, reduce_range)
        self._traced.set_submodule(name, made)

    def _quantize_answer(self, node: fx.Node) -> None:
        """What `node` gives, or the ReLU that alone follows it; not the model's own answer."""
        followers = list(node.users)
        if len(followers) == 1 and self._is_relu(followers[0]):
            node = followers[0]
        if not any(user.op == "output" for user in node.users):
            self._quantized(node)

    def _quantized(self, node: fx.Node) -> tuple[fx.Node, fx.Node]:
        """`node` on a grid, as all its users see it from now on, and the step of the grid."""
        if node in self._given:
            return node, self._given[node][0]
        name = self._name_of_grid(node)
        with self._traced.graph.inserting_after(node):
            pair = self._traced.graph.call_module(name, (node,))
        with self._traced.graph.inserting_after(pair):
            value = self._traced.graph.call_function(operator.getitem, (pair, 0))
        with self._traced.graph.inserting_after(value):
            step = self._traced.graph.call_function(operator.getitem, (pair, 1))
        node.replace_all_uses_with(value, delete_user_cb=lambda user: user is not pair)
        self._given[value] = (step, name)
        return value, step

    def _name_of_grid(self, node: fx.Node) -> str:
        """A fake quantizer of its own, or where `node` only moves what lies on a grid already, that grid's."""
        if self._carries(node):
            before = _argument(node)
            if before in self._given or self._carries(before):
                value, _ = self._quantized(before)
                return self._given[value][1]
        numerics = self._numerics
        made = FakeQuantize(numerics.signed, self._is_relu(node), numerics.learned, numerics.symmetric)
        name = f"ranges.{node.name}"
        self._traced.add_submodule(name, made)
        return name

    def _is_relu(self, node: fx.Node) -> bool:
        return isinstance(_module(self._traced, node), RELU_MODULES) or _is_call(node, RELU_CALLS)

    def _carries(self, node: fx.Node) -> bool:
        """Whether `node` gives values of its first argument alone, and zeros."""
        if _is_call(node, (functional.pad,)):
            return _pads_zeros(node)
        return isinstance(_module(self._traced, node), CARRYING_MODULES) or _is_call(node, CARRYING_CALLS)


def _argument(node: fx.Node) -> fx.Node:
    """The tensor that a node computes from, however its call was written."""
    return node.all_input_nodes[0]


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _calls(traced: fx.GraphModule, target: Any) -> int:
    return sum(node.op == "call_module" and node.target == target for node in traced.graph.nodes)


def _is_call(node: fx.Node, targets: Sequence[Any]) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets


def _joins_two(node: fx.Node) -> bool:
    """Whether it adds or multiplies two tensors, and no number to one."""
    return _is_call(node, JOIN_CALLS) and len(node.args) == 2 and all(isinstance(part, fx.Node) for part in node.args)


def _is_plain(layer: nn.Conv2d | nn.Linear) -> bool:
    """Its own class and no other's computation, padded by zeros where it pads."""
    return type(layer) in (nn.Conv2d, nn.Linear) and getattr(layer, "padding_mode", "zeros") == "zeros"


def _pads_zeros(node: fx.Node) -> bool:
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    return mode == "constant" and not value


def _write_nothing_in_place(traced: fx.GraphModule) -> None:
    """What a fake quantizer gave is needed again for its gradient, and by its other users."""
    plain = {operator.iadd: operator.add, operator.imul: operator.mul}
    for part in traced.modules():
        if getattr(part, "inplace", False):
            setattr(part, "inplace", False)  # noqa: B010  # which modules have it, no type says
    for node in traced.graph.nodes:
        if node.op == "call_function":
            node.target = plain.get(node.target, node.target)
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        elif node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
            node.target = str(node.target)[:-1]
