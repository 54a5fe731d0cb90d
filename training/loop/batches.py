"""Batches: what this worker reads of the train split, made ready ahead of the step that uses it.

Shape suffixes: N rows, B batch, C classes.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.encoding import Encoding, TextEncoding
from training.loop.augment import preparation
from training.loop.losses import balanced_probabilities
from training.loop.mixing import mix
from training.loop.order import EpochOrder, epoch_order, share, steps_per_epoch
from training.loop.worker import Worker
from training.recipe import Recipe
from training.task import Split

PREFETCH = 2  # batches a loading thread is ahead
MAX_LOADERS = 8
# A train split that takes less than this share of a GPU's free memory lives there: no copy a step, and the
# augmentation runs where it is fastest.
RESIDENT_SHARE = 0.25


@dataclass(frozen=True)
class Batch:
    """A worker's share of a batch of `rows` rows; `targets` are int64 [B], or probabilities [B, C] when mixed."""

    ids: NDArray[np.int64]
    inputs: Tensor
    targets: Tensor
    rows: int


class Batches:
    """The train split as batches, a pure function of (seed, epoch, step) and of this worker's place among the others.

    Rows lie in memory, memory-mapped on disk, or on the GPU where they fit; threads gather, augment and pin the next
    batches meanwhile. They are threads because all they do lets go of the interpreter, and arrays are shared by them.
    """

    def __init__(self, recipe: Recipe, encoding: Encoding, train: Split, worker: Worker) -> None:
        self._recipe, self._worker, self._train = recipe, worker, train
        self._classes = len(encoding.labels)
        self._prepare = preparation(encoding, recipe.augmentation, recipe.seed)
        self._lengths = _lengths(recipe, encoding, train)
        balanced = recipe.class_balance == "sampling"
        self._probabilities = balanced_probabilities(train.labels) if balanced else None
        self._mixes = recipe.augmentation.mixup > 0 or recipe.augmentation.cutmix > 0
        self.steps = steps_per_epoch(len(train), recipe.batch_size)
        self._loaders = min(MAX_LOADERS, max(1, (os.cpu_count() or 1) - 1)) if worker.on_gpu else 1
        self._threads = ThreadPoolExecutor(self._loaders, thread_name_prefix="loader")

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def order(self, epoch: int) -> EpochOrder:
        recipe = self._recipe
        return epoch_order(
            recipe.seed, epoch, len(self._train), recipe.batch_size, self._probabilities, self._lengths
        )  # fmt: skip

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from `first_step` (counted from 0) on, where they were read: see `to_device`."""
        order = self.order(epoch)
        if self._resident is not None:
            for step in range(first_step, order.steps):
                yield self._read(order, epoch, step)
            return
        steps = iter(range(first_step, order.steps))
        depth = PREFETCH * self._loaders
        ahead = deque(self._threads.submit(self._read, order, epoch, step) for step in islice(steps, depth))
        try:
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(self._threads.submit(self._read, order, epoch, step) for step in islice(steps, 1))
                yield batch
        finally:
            for waiting in ahead:
                waiting.cancel()

    def _read(self, order: EpochOrder, epoch: int, step: int) -> Batch:
        worker, whole = self._worker, order.batch(step)
        ids = share(whole, worker.rank, worker.world_size)
        inputs, targets = self.rows(ids, epoch)
        if self._mixes:
            # The partner is the next row of the global batch, so that it does not depend on the number of workers.
            partners = share(np.roll(whole, -1), worker.rank, worker.world_size)
            partner_inputs, partner_targets = self.rows(partners, epoch)
            inputs, targets = mix(
                inputs, partner_inputs, self._one_hot(targets), self._one_hot(partner_targets),
                self._recipe.augmentation, self._recipe.seed, epoch, step,
            )  # fmt: skip
        if worker.on_gpu and self._resident is None:
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return Batch(ids, inputs, targets, len(whole))

    def rows(self, ids: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """Inputs, augmented for `epoch`, and int64 labels of any rows of the split."""
        if self._resident is not None:
            inputs, labels = self._resident
            where = torch.from_numpy(ids).to(inputs.device)
            return self._prepare(inputs[where], epoch, ids), labels[where]
        inputs = torch.from_numpy(self._train.inputs[ids])
        return self._prepare(inputs, epoch, ids), torch.from_numpy(self._train.labels[ids])

    def _one_hot(self, targets: Tensor) -> Tensor:
        return functional.one_hot(targets, self._classes).to(torch.float32)

    def to_device(self, batch: Batch) -> Batch:
        """`batch` where the model is; the copy to a GPU goes on while the caller does."""
        if not self._worker.on_gpu or self._resident is not None:
            return batch
        inputs, targets = (part.to(self._worker.device, non_blocking=True) for part in (batch.inputs, batch.targets))
        return Batch(batch.ids, inputs, targets, batch.rows)

    @cached_property
    def _resident(self) -> tuple[Tensor, Tensor] | None:
        """Inputs and labels on the GPU, where they fit well."""
        worker, inputs = self._worker, self._train.inputs
        if not worker.on_gpu or inputs.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(worker.device)[0]:
            return None
        # A copy, since a memory-mapped array may be read-only, which tensors cannot be.
        return torch.from_numpy(np.array(inputs)).to(worker.device), torch.from_numpy(self._train.labels).to(
            worker.device
        )


def _lengths(recipe: Recipe, encoding: Encoding, split: Split) -> NDArray[np.int64] | None:
    """The length of every text where batches are made by it; None where they are not."""
    if not recipe.batch_by_length:
        return None
    if not isinstance(encoding, TextEncoding):
        raise ValueError(f"batch_by_length is for texts, not for inputs of kind {encoding.kind!r}: leave it out")
    lengths: NDArray[np.int64] = (split.inputs != encoding.pad_id).sum(axis=1, dtype=np.int64)
    return lengths
