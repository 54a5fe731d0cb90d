"""A training of which several processes wrote each its part, read by any number of them under any plan."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from training.checkpoint.folder import Folder
from training.checkpoint.shard_files import ShardReader
from training.loop.training import OPTIMIZER, Training
from training.parallel.attention import attentions, pack, unpack
from training.parallel.named_state import Slots, load_tensors


def load_sharded(training: Training, numbers: dict[str, Any], folder: Folder) -> None:
    """Restore what `save_shards` wrote into `folder`, whoever did; every process calls it.

    `numbers` are all but what was held; the best weights are in the first process's alone.
    """
    reader = ShardReader(folder)
    own = {kind: _cuttable(training, held) for kind, held in training.tensors().items()}
    groups = {kind: _empty(held) for kind, held in own.items() if not kind.startswith(OPTIMIZER)}
    parameters = _cuttable(training, dict(training.module.named_parameters()))
    for key, described in reader.read_metadata().state_dict_metadata.items():
        kind, _, name = key.partition(":")
        if isinstance(described, TensorStorageMetadata) and kind.startswith(OPTIMIZER) and name in parameters:
            groups.setdefault(kind, {})[name] = _slot(parameters[name], described)
    keyed = {f"{kind}:{name}": tensor for kind, held in groups.items() for name, tensor in held.items()}
    with _without_warning():
        load(keyed, storage_reader=reader, process_group=training.strategy.file_group)
    loaded = {kind: _as_held(training, held) for kind, held in groups.items()}
    load_tensors(training.module, loaded["model"])
    if training.averaged:
        load_tensors(training.averaged.module, loaded["average"])
    slots: Slots = {kind.removeprefix(OPTIMIZER): held for kind, held in loaded.items() if kind.startswith(OPTIMIZER)}
    training.restore_numbers(numbers, slots)


@contextmanager
def _without_warning() -> Iterator[None]:
    """A process alone is told that it is taken for alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _cuttable(training: Training, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of a model that can be cut, which is how it is written; see attention.py."""
    return held if training.strategy.is_sharded else unpack(held, attentions(training.module))


def _as_held(training: Training, held: dict[str, Tensor]) -> dict[str, Tensor]:
    return held if training.strategy.is_sharded else pack(held, attentions(training.module))


def _empty(held: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty_like(tensor, memory_format=torch.contiguous_format) for name, tensor in held.items()}


def _slot(parameter: Tensor, described: TensorStorageMetadata) -> Tensor:
    """Room for what an optimizer remembers of `parameter`: as many numbers, cut as they are, in any shape; or one."""
    if described.size.numel() != parameter.numel():
        return torch.empty(described.size, dtype=described.properties.dtype)
    return torch.empty_like(parameter, memory_format=torch.contiguous_format, requires_grad=False).reshape(
        described.size
    )
