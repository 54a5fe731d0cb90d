"""Recompute activations: keep only what enters each block, and run the block again in the backward pass.

Memory then grows with the number of blocks, not with what is inside of them, for a third more time (Chen et al. 2016).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from training.models.blocks import blocks


def recompute_activations(module: nn.Module) -> nn.Module:
    """Let each block of `module` (see `blocks`) recompute its activations; `module` itself is returned.

    Gradients, running statistics and names of weights stay as they are: dropout draws the same again, and batch
    statistics are not counted twice. Raises ValueError where there is no block to speak of.
    """
    found = blocks(module)
    if not found:
        raise ValueError(
            f"{type(module).__name__} has no blocks whose activations could be recomputed: leave out "
            "recompute_activations, or put the parts of the model that repeat into an nn.Sequential or nn.ModuleList"
        )
    for block in found:
        block.forward = _Recomputed(block)
    return module


class _Recomputed:
    """A block's forward pass under a checkpoint. An object and no closure, so that a copy of the block runs itself."""

    def __init__(self, block: nn.Module) -> None:
        self._forward = block.forward
        self._norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A compiled backward pass recomputes what it needs and writes to no buffer.
        if not self._norms or torch.compiler.is_compiling():
            return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._statistics_kept()

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """While a block runs again, its running statistics, which have seen the batch already, stay as they are."""
        kept: list[tuple[_BatchNorm, float | None, Tensor | None]] = []
        for norm in self._norms:
            counter = norm.num_batches_tracked
            kept.append((norm, norm.momentum, None if counter is None else counter.clone()))
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum, counter in kept:
                norm.momentum = momentum
                if counter is not None and norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.copy_(counter)
