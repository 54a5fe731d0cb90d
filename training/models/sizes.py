"""Sizes: how wide a layer is, and a module whose layers are given other widths than its architecture makes them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# (channels or features that a layer reads, those that it makes).
Size = tuple[int, int]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def size_of(layer: nn.Module) -> Size | None:
    """None for a layer that has no widths of its own, or none that can be changed."""
    if isinstance(layer, Convolution):
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _BatchNorm):
        return layer.num_features, layer.num_features
    return None


def sizes_of(module: nn.Module) -> dict[str, Size]:
    """Name -> size of every layer that has one."""
    named = {name: size_of(layer) for name, layer in module.named_modules()}
    return {name: size for name, size in named.items() if size is not None}


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each channel that a convolution makes is of one channel that it reads."""
    return isinstance(layer, Convolution) and layer.groups == layer.in_channels > 1


def resize(module: nn.Module, sizes: Mapping[str, Size]) -> None:
    """Give each layer of `module` that `sizes` names its size, in place; its weights are new ones then.

    A depthwise convolution stays one. Raises ValueError on a name that is no layer with widths, and on a size that
    its kind cannot have.
    """
    layers = dict(module.named_modules())
    for name, (inputs, outputs) in sizes.items():
        layer = layers.get(name)
        if layer is None or size_of(layer) is None:
            what = "there is no such layer" if layer is None else f"a {type(layer).__name__} has no size to change"
            raise ValueError(f"size {(inputs, outputs)} of layer {name!r}: {what}")
        if size_of(layer) != (inputs, outputs):
            _resize_layer(name, layer, inputs, outputs)


def _resize_layer(name: str, layer: nn.Module, inputs: int, outputs: int) -> None:
    if isinstance(layer, Convolution):
        groups = inputs if is_depthwise(layer) else layer.groups
        if inputs % groups or outputs % groups:
            raise ValueError(
                f"layer {name!r} is a convolution of {groups} groups: {inputs} channels in and {outputs} out "
                "do not divide by them"
            )
        layer.in_channels, layer.out_channels, layer.groups = inputs, outputs, groups
        layer.weight = _empty(layer.weight, outputs, inputs // groups)
        layer.bias = None if layer.bias is None else _empty(layer.bias, outputs)
        layer.reset_parameters()
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
        layer.weight = _empty(layer.weight, outputs, inputs)
        layer.bias = None if layer.bias is None else _empty(layer.bias, outputs)
        layer.reset_parameters()
    elif isinstance(layer, _BatchNorm):
        if inputs != outputs:
            raise ValueError(f"layer {name!r} normalizes: it makes as many channels as it reads, not {outputs}")
        layer.num_features = outputs
        for parameter in ("weight", "bias"):
            held = getattr(layer, parameter)
            setattr(layer, parameter, None if held is None else _empty(held, outputs))
        for statistic in ("running_mean", "running_var"):
            kept = getattr(layer, statistic)
            setattr(layer, statistic, None if kept is None else kept.new_empty(outputs))
        layer.reset_parameters()


def _empty(like: Tensor, *leading: int) -> nn.Parameter:
    """A parameter as `like` is, but for its leading axes."""
    return nn.Parameter(torch.empty((*leading, *like.shape[len(leading) :]), dtype=like.dtype, device=like.device))
