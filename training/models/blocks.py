"""The blocks that a network is a repetition of: what is recomputed and sharded by, and may be left out of a model."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

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


class Skipped(nn.Module):
    """In a block's place: what the block would read goes on as it is."""

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        return x


def drop(module: nn.Module, names: Iterable[str]) -> None:
    """Leave the blocks of these names out of `module`, in place; raises ValueError on a name that it has not."""
    parts = dict(module.named_modules())
    for name in names:
        if name not in parts or not name:
            raise ValueError(f"block {name!r} is to be left out: there is no such part of the model")
        module.set_submodule(name, Skipped())


@contextmanager
def without(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """`module` without these blocks, until the context ends."""
    held = {name: module.get_submodule(name) for name in names}
    drop(module, held)
    try:
        yield
    finally:
        for name, block in held.items():
            module.set_submodule(name, block)
