"""Criteria: what each unit of a group is worth, by its weights or by what the loss would be without it.

Shape suffixes: N positions along an axis, U units of a group, B rows.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from optimization.prune.group import Axis, Group, PruneError
from optimization.prune.settings import Prune
from training.models.sizes import is_depthwise
from training.task import Split

# By a group's name: what each unit is worth, float64 [U], 0 or more.
Scores = Mapping[str, NDArray[np.float64]]
TAYLOR_BATCH = 64


def unit_scores(module: nn.Module, groups: Sequence[Group], settings: Prune, train: Split) -> Scores:
    """What `settings.criterion` says of every unit; `train` is read by "taylor" alone.

    Groups without a BatchNorm have no score by "bn_scale" and are left out: they stay whole. Raises PruneError where
    no group has a score, or a score is not finite.
    """
    scores: Scores
    match settings.criterion:
        case "l1":
            scores = {group.name: _relative(_magnitudes(module, group, 1)) for group in groups}
        case "l2":
            scores = {group.name: _relative(np.sqrt(_magnitudes(module, group, 2))) for group in groups}
        case "bn_scale":
            scores = {group.name: _scales(module, group) for group in groups if _norms(module, group)}
        case "taylor":
            scores = _taylor(module, groups, settings, train)
        case "random":
            random = np.random.default_rng(settings.seed)
            scores = {group.name: random.random(group.units) for group in groups}
    if not scores:
        raise PruneError(
            "no channel of this model is normalized by a BatchNorm: choose another criterion than bn_scale"
        )
    for name, score_U in scores.items():
        if not np.isfinite(score_U).all():
            raise PruneError(
                f"{settings.criterion} of the channels of {name} is not finite: look at the model's weights"
            )
    return scores


def _relative(score_U: NDArray[np.float64]) -> NDArray[np.float64]:
    """As shares of the group's mean: that one layer's weights are larger than another's says nothing of their worth."""
    mean = score_U.mean()
    return score_U / mean if mean > 0 else score_U


def _magnitudes(module: nn.Module, group: Group, power: int) -> NDArray[np.float64]:
    """The sum of |weight|^power of all convolutions and matrices that make or read a unit (Li et al. 2017)."""
    total_U = np.zeros(group.units)
    for axis, layer in _layers(module, group):
        if isinstance(layer, _BatchNorm):
            continue
        weight = layer.get_parameter("weight").detach().double()
        along_N = weight if axis.side == "out" or is_depthwise(layer) else weight.transpose(0, 1)
        total_U += _by_unit(axis, group, along_N.flatten(1).abs().pow(power).sum(dim=1))
    return total_U


def _scales(module: nn.Module, group: Group) -> NDArray[np.float64]:
    """The sum of |gamma| of the BatchNorms of a unit ("Learning Efficient Convolutional Networks", Liu et al. 2017)."""
    total_U = np.zeros(group.units)
    for axis, layer in _norms(module, group):
        total_U += _by_unit(axis, group, layer.get_parameter("weight").detach().double().abs())
    return total_U


def _taylor(module: nn.Module, groups: Sequence[Group], settings: Prune, train: Split) -> Scores:
    """The mean over batches of (sum of weight times gradient)^2, taken at the BatchNorms of a unit where it has such,
    else at what makes it: how the loss would change to first order ("Importance Estimation", Molchanov et al. 2019).
    """
    trial = copy.deepcopy(module).eval()
    gates = {group.name: _norms(trial, group) or _makers(trial, group) for group in groups}
    layers = dict.fromkeys(layer for found in gates.values() for _, layer in found)
    parameters = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    total = {group.name: np.zeros(group.units) for group in groups}
    rows = np.random.default_rng(settings.seed).permutation(len(train))[: settings.taylor_rows]
    batches = np.array_split(np.sort(rows), -(-len(rows) // TAYLOR_BATCH))
    for batch in batches:
        logits_BC = trial(torch.from_numpy(train.inputs[batch]))
        loss = functional.cross_entropy(logits_BC, torch.from_numpy(train.labels[batch]))
        gradients = dict(zip(parameters, torch.autograd.grad(loss, parameters), strict=True))
        for group in groups:
            change_U = np.zeros(group.units)
            for axis, layer in gates[group.name]:
                for parameter in layer.parameters(recurse=False):
                    along_N = (parameter.detach() * gradients[parameter]).double().flatten(1 - (parameter.ndim == 1))
                    change_U += _by_unit(axis, group, along_N if along_N.ndim == 1 else along_N.sum(dim=1))
            total[group.name] += change_U**2
    return {name: total_U / len(batches) for name, total_U in total.items()}


def _layers(module: nn.Module, group: Group) -> Iterator[tuple[Axis, nn.Module]]:
    for axis in group.axes:
        yield axis, module.get_submodule(axis.layer)


def _norms(module: nn.Module, group: Group) -> list[tuple[Axis, nn.Module]]:
    return [(axis, layer) for axis, layer in _layers(module, group) if isinstance(layer, _BatchNorm) and layer.affine]


def _makers(module: nn.Module, group: Group) -> list[tuple[Axis, nn.Module]]:
    return [(axis, layer) for axis, layer in _layers(module, group) if axis.side == "out"]


def _by_unit(axis: Axis, group: Group, value_N: Tensor) -> NDArray[np.float64]:
    """The sum of what lies at each unit's positions."""
    held_N = axis.unit_N >= 0
    total_U = np.bincount(axis.unit_N[held_N], value_N.numpy()[held_N], minlength=group.units)
    return total_U.astype(np.float64)
