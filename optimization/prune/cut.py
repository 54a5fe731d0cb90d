"""Cut: channels out of weights, and the same channels at zero in the whole model, which must answer alike."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optimization.prune.group import Group, Kept
from training.models.sizes import Size, is_depthwise, size_of


@dataclass(frozen=True)
class Cut:
    """`sizes` are of the layers that became smaller; `weights` are of all, as the smaller model has them."""

    sizes: dict[str, Size]
    weights: dict[str, Tensor]


def cut(module: nn.Module, groups: Iterable[Group], kept: Kept) -> Cut:
    """`module`'s weights without the units that `kept` does not hold; a group that it does not name stays whole."""
    weights = dict(module.state_dict())
    sizes = {}
    for name, (reads_N, makes_N) in _positions(module, groups, kept).items():
        layer = module.get_submodule(name)
        size = int(reads_N.sum()), int(makes_N.sum())
        if size == size_of(layer):
            continue
        sizes[name] = size
        _take(weights, name, layer, torch.from_numpy(reads_N), torch.from_numpy(makes_N))
    return Cut(sizes, {name: tensor.detach().clone() for name, tensor in weights.items()})


def zeroed(module: nn.Module, groups: Iterable[Group], kept: Kept) -> dict[str, Tensor]:
    """`module`'s weights, with all that makes the units which `kept` does not hold set to zero."""
    weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for name, (_, makes_N) in _positions(module, groups, kept).items():
        for parameter in ("weight", "bias"):
            if f"{name}.{parameter}" in weights:
                weights[f"{name}.{parameter}"][torch.from_numpy(~makes_N)] = 0
    return weights


def answers_when_zeroed(module: nn.Module, groups: Iterable[Group], kept: Kept, rows: Tensor) -> Tensor:
    """What `module` answers to `rows` with these units at zero; it is in eval mode meanwhile and not changed."""
    was_training = module.training
    try:
        with torch.no_grad():
            answers: Tensor = torch.func.functional_call(module.eval(), zeroed(module, groups, kept), (rows,))
    finally:
        module.train(was_training)
    return answers


def _positions(
    module: nn.Module, groups: Iterable[Group], kept: Kept
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """By layer: which of what it reads, and of what it makes, stays. Several groups may meet along one axis."""
    positions: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    for group in groups:
        if group.name not in kept:
            continue
        for axis in group.axes:
            layer = module.get_submodule(axis.layer)
            size = size_of(layer)
            assert size is not None, "a group has only layers with widths"
            both = positions.setdefault(axis.layer, (np.ones(size[0], np.bool_), np.ones(size[1], np.bool_)))
            stays_N = (axis.unit_N < 0) | kept[group.name][axis.unit_N]
            sides = [axis.side == "out"]
            if size[0] == size[1] and not _mixes(layer):
                sides = [False, True]  # what it makes is what it reads
            for side in sides:
                both[side][:] &= stays_N
    return positions


def _mixes(layer: nn.Module) -> bool:
    """Whether each of what a layer makes is of all that it reads."""
    return isinstance(layer, nn.Linear) or (hasattr(layer, "groups") and not is_depthwise(layer))


def _take(weights: dict[str, Tensor], name: str, layer: nn.Module, reads_N: Tensor, makes_N: Tensor) -> None:
    for own, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        key = f"{name}.{own}"
        if key not in weights or not tensor.ndim:
            continue  # a count, or what is not kept with the weights
        weights[key] = weights[key][makes_N]
        if tensor.ndim > 1 and not is_depthwise(layer):
            weights[key] = weights[key][:, reads_N]
