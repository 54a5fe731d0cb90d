"""Sparse: the smallest weights set to zero, held there while the others learn, and what a file gains by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from optimization.prune.settings import Allocation
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.weights import read_weights
from training.observe.clock import StepClock

DEFLATE_LEVEL, ZSTD_LEVEL = 9, 19


def sparse_parameters(module: nn.Module) -> dict[str, Tensor]:
    """The parameters whose single weights may go: matrices, filters and embeddings, not norms and biases."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.ndim > 1}


def zero_smallest(module: nn.Module, amount: float, allocation: Allocation) -> None:
    """Set `amount` of the weights to zero in place: the smallest of all ("global"), or of each parameter ("uniform").

    Weights that are zero already are among the smallest. Source: "Learning both Weights and Connections for Efficient
    Neural Networks", Han et al. 2015.
    """
    parameters = sparse_parameters(module)
    together = [list(parameters.values())] if allocation == "global" else [[one] for one in parameters.values()]
    for tensors in together:
        sizes = torch.cat([tensor.abs().flatten() for tensor in tensors])
        stays = torch.ones(len(sizes), dtype=torch.bool)
        stays[sizes.argsort(stable=True)[: round(amount * len(sizes))]] = False
        for tensor, kept in zip(tensors, torch.split(stays, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.mul_(kept.view_as(tensor))


def sparsity(module: nn.Module) -> float:
    """The share of zeros among the weights that may go."""
    parameters = sparse_parameters(module).values()
    zeros = sum(int((tensor == 0).sum()) for tensor in parameters)
    return zeros / sum(tensor.numel() for tensor in parameters)


@dataclass(frozen=True)
class ZerosOf:
    """Makes the watcher that keeps at zero what is zero in the weights at `path`, which every worker must see."""

    path: Path

    def __call__(self, worker: Worker) -> Sequence[Watcher]:
        del worker
        return [KeepZeros({name: tensor != 0 for name, tensor in read_weights(self.path).items() if tensor.ndim > 1})]


class KeepZeros(Watcher):
    """After each step, sets to zero what a mask says of each parameter, and of its running average."""

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        self._kept = kept

    def begin(self, training: Training, clock: StepClock) -> None:
        if training.strategy.is_sharded:
            raise ValueError("weights are kept at zero where each process holds them all: train without sharding")
        self._kept = {name: kept.to(training.worker.device) for name, kept in self._kept.items()}
        # A checkpoint is written before the watchers that stand behind it: what it holds was not yet set to zero.
        self._apply(training)

    def step(self, training: Training, batch: object) -> None:
        self._apply(training)

    def _apply(self, training: Training) -> None:
        modules = [training.module, *([training.averaged.module] if training.averaged else [])]
        with torch.no_grad():
            for module in modules:
                for name, parameter in module.named_parameters():
                    if name in self._kept:
                        parameter.mul_(self._kept[name])


@dataclass(frozen=True)
class FileSize:
    """Bytes of weights as a safetensors file: as it is, and compressed by deflate (as zip does) and by zstd."""

    plain: int
    deflate: int
    zstd: int


def file_size(weights: Mapping[str, Tensor]) -> FileSize:
    import zlib

    import pyarrow
    from safetensors.torch import save

    content = save(dict(weights))
    zstd = pyarrow.Codec("zstd", compression_level=ZSTD_LEVEL)
    return FileSize(len(content), len(zlib.compress(content, DEFLATE_LEVEL)), len(zstd.compress(content)))
