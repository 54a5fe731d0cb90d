"""The blocks that a network is a repetition of: what activations are recomputed by, and weights are sharded by."""

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost parts of `module` that stand in a sequence or list and have parts of their own.

    These are the residual blocks of a ResNet and the layers of a transformer, whoever wrote it.
    """
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(module, _CONTAINERS) and type(child) not in _CONTAINERS and _is_composed(child):
            found.append(child)
        else:
            found.extend(blocks(child))
    return found


def _is_composed(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())
