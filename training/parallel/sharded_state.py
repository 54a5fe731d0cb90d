"""A training on disk, written by all processes at once, each what it holds; read by any number of them by any plan.

In a folder, by torch.distributed.checkpoint: process r writes `__r_0.distcp`, the first one also `.metadata`, which
says what lies where (a pickle, so read folders of your own alone), and `training.pt` with everything that is no tensor
of the model's size. Of what several processes hold, one writes it; who is left with nothing writes no file.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from training.loop.training import OPTIMIZER, Training
from training.parallel.attention import attentions, pack, unpack
from training.parallel.named_state import Slots

NUMBERS_FILE = "training.pt"
BEST = "best"


def save_sharded(training: Training, folder: Path) -> Future[Any]:
    """Copy what each process holds of `training`, and write it meanwhile; every process calls it.

    The training may go on at once, but for one that is alone, which waits. The next save may not begin before this
    one's future is done, which raises where the writing failed. The folder is whole when those of all processes are.
    """
    numbers = training.numbers()
    groups = {group: _cuttable(training, held) for group, held in training.tensors().items()}
    if training.worker.rank == 0:
        groups[BEST] = numbers["best"].pop("weights")
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(numbers, folder / NUMBERS_FILE)
    group, writer = training.strategy.file_group, FileSystemWriter(folder)
    if group is None:
        with _without_warning():
            save(_keyed(groups), storage_writer=writer, no_dist=True)
        saved: Future[Any] = Future()
        saved.set_result(None)
        return saved
    saving = async_save(_keyed(groups), storage_writer=writer, process_group=group)
    assert isinstance(saving, Future)
    return saving


def load_sharded(training: Training, folder: Path) -> None:
    """Inverse of `save_sharded`, whoever saved it; every process calls it. Where it raises, `training` is as it was."""
    reader = FileSystemReader(folder)
    saved = reader.read_metadata().state_dict_metadata
    own = {group: _cuttable(training, held) for group, held in training.tensors().items()}
    groups = {group: _empty(held) for group, held in own.items() if not group.startswith(OPTIMIZER)}
    parameters = _cuttable(training, dict(training.module.named_parameters()))
    for key, described in saved.items():
        group, _, name = key.partition(":")
        if isinstance(described, TensorStorageMetadata):
            if group.startswith(OPTIMIZER) and name in parameters:
                groups.setdefault(group, {})[name] = _slot(parameters[name], described)
            elif group == BEST and training.worker.rank == 0:
                groups.setdefault(group, {})[name] = torch.empty(described.size, dtype=described.properties.dtype)
    with _without_warning():
        load(_keyed(groups), storage_reader=reader, process_group=training.strategy.file_group)
    numbers = torch.load(folder / NUMBERS_FILE, map_location="cpu", weights_only=True)
    numbers["best"]["weights"] = groups.pop(BEST, {})
    loaded = {group: _as_held(training, held) for group, held in groups.items()}
    training.module.load_state_dict(loaded["model"])
    if training.averaged:
        training.averaged.module.load_state_dict(loaded["average"])
    slots: Slots = {g.removeprefix(OPTIMIZER): held for g, held in loaded.items() if g.startswith(OPTIMIZER)}
    training.restore_numbers(numbers, slots)


@contextmanager
def _without_warning() -> Iterator[None]:
    """A process alone is told that it is taken for alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _keyed(groups: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    return {f"{group}:{name}": tensor for group, held in groups.items() for name, tensor in held.items()}


def _cuttable(training: Training, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of a model that can be cut, which is how all write it; see attention.py."""
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
