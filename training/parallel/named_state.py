"""What an optimizer remembers, by the names of parameters: the same for a whole model and for a part of one."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Slots = dict[str, dict[str, Tensor]]  # what is remembered (such as "exp_avg") -> parameter -> tensor


def named_slots(optimizer: torch.optim.Optimizer, module: nn.Module) -> Slots:
    """The tensors themselves, not copies."""
    slots: Slots = defaultdict(dict)
    for name, parameter in module.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                slots[slot][name] = value
    return dict(slots)


def load_slots(optimizer: torch.optim.Optimizer, module: nn.Module, slots: Slots) -> None:
    """Inverse of `named_slots`; tensors are cut as their parameters are. Rates and decays stay those of `optimizer`."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    own = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for group, numbered in zip(optimizer.param_groups, own["param_groups"], strict=True):
        for parameter, number in zip(group["params"], numbered["params"], strict=True):
            for slot, tensors in slots.items():
                if names[id(parameter)] in tensors:
                    state[number][slot] = tensors[names[id(parameter)]]
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict`, of a state of today: to one that does not say so, batch normalization adds a count,
    also for a layer of which this process has let go.
    """
    state: Any = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)


def rebind(
    optimizer: torch.optim.Optimizer,
    before: Mapping[int, str],
    module: nn.Module,
    whole_name: Callable[[str], str],
) -> None:
    """Put the parameters that `module` has now into the groups of those that it had, and leave out what it lost.

    `before` tells the name of each old parameter by its id, `whole_name` that of each new one. An optimizer is made
    for the whole model, since which rule goes for a layer may depend on those beside it.
    """
    successors: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        successors[whole_name(name)].append(parameter)
    for group in optimizer.param_groups:
        group["params"] = [new for old in group["params"] for new in successors[before[id(old)]]]
        if len({getattr(parameter, "device_mesh", None) for parameter in group["params"]}) > 1:
            # One call over all parameters takes no mix of those that are cut in different ways.
            group.update({key: False for key in ("foreach", "fused") if key in group})
