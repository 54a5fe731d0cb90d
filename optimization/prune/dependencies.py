"""Dependencies: which channels can only go together, by Torch-Pruning's graph, and each group of them proven by a run.

"DepGraph: Towards Any Structural Pruning", Fang et al. 2023. The graph guesses what it does not know (padding by more
channels passes for an operation that keeps them), so no group is believed: half of its channels are taken out of a
copy with random weights, which must answer as the whole copy does with these channels at zero.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimization.prune.cut import answers_when_zeroed, cut
from optimization.prune.group import Axis, Channels, Group, PruneError
from training.models.sizes import is_depthwise, resize, size_of
from training.models.torchvision_door import declare_operators

# What rounding may do to the answers of a group that is right, as a share of the largest one.
TOLERANCE = 1e-3


def find_channels(module: nn.Module, rows: Tensor) -> Channels:
    """All channels of `module` that can be taken out; `rows` is a batch that it reads, of two rows or more.

    Raises PruneError where there are none, or the graph of the model cannot be drawn.
    """
    trial = _with_random_weights(module)
    groups, left = [], {}
    for name, found in _dependencies(trial, rows).items():
        fault = found if isinstance(found, str) else _fault(trial, found, rows)
        if fault is not None:
            left[name] = fault
        elif isinstance(found, Group):
            groups.append(found)
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items()) or "it has no layers with widths"
        raise PruneError(f"no channel of this model can be taken out alone ({reasons})")
    return Channels(tuple(groups), left)


def _dependencies(module: nn.Module, rows: Tensor) -> dict[str, Group | str]:
    """By the first layer that makes them: what belongs together, or why it must stay."""
    declare_operators()  # it imports timm where there is one, and with it torchvision
    import torch_pruning

    try:
        graph = torch_pruning.DependencyGraph().build_dependency(module, (rows,), verbose=False)
        found = list(graph.get_all_groups(root_module_types=(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)))
    except Exception as error:  # it raises whatever its own code stumbles upon
        raise PruneError(f"the dependencies between this model's layers cannot be drawn: {error!r}") from error
    names = {layer: name for name, layer in module.named_modules()}
    return {names[group[0].dep.target.module]: _group(graph, group, names) for group in found}


def _group(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> Group | str:
    axes = []
    for item in group.items:
        layer = item.dep.target.module
        if isinstance(layer, nn.Parameter):
            return "a parameter that is of no layer depends on them"
        if layer not in names:
            continue  # an operation without weights
        size = size_of(layer)
        if size is None:
            if any(True for _ in layer.parameters()):
                return f"{names[layer]} depends on them, and a {type(layer).__name__} cannot be cut"
            continue
        if getattr(layer, "groups", 1) > 1 and not is_depthwise(layer):
            return f"{names[layer]} depends on them, a convolution of {layer.groups} groups"
        is_out = graph.is_out_channel_pruning_fn(item.dep.handler)
        unit_N = np.full(size[is_out], -1, dtype=np.int64)
        unit_N[list(item.idxs)] = list(item.root_idxs)
        axes.append(Axis(names[layer], "out" if is_out else "in", unit_N))
    return Group(axes[0].layer, len(axes[0].unit_N), tuple(axes))


def _fault(module: nn.Module, group: Group, rows: Tensor) -> str | None:
    """Why channels of `group` cannot be taken out of `module`; None where they can."""
    if group.units < 2:
        return "there is only one"
    # Irregular: a mistake in their order must not look like the right one.
    kept = {group.name: np.random.default_rng(0).permutation(group.units) < group.units / 2}
    wanted = answers_when_zeroed(module, (group,), kept, rows)
    smaller = copy.deepcopy(module)
    try:
        made = cut(module, (group,), kept)
        resize(smaller, made.sizes)
        smaller.load_state_dict(made.weights)
        with torch.no_grad():
            found = smaller(rows)
    except (ValueError, RuntimeError, IndexError) as error:
        return f"the rest does not fit together without them: {error}"
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return "they are the answer itself"
    if not torch.allclose(found, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().max())):
        return "the answers change without them even where they are zero"
    return None


def _with_random_weights(module: nn.Module) -> nn.Module:
    """A copy in which every weight matters: trained or fresh ones may hide a mistake behind a zero."""
    trial = copy.deepcopy(module).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in trial.state_dict().values():
            if tensor.ndim > 1 and tensor.is_floating_point():
                tensor.normal_(0, (2 / max(1, tensor[0].numel())) ** 0.5, generator=random)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.3, 1.0, generator=random)  # variances too, which must be above 0
    return trial
