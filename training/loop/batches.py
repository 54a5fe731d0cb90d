"""Batches: what this worker reads of the train split, made ready ahead of the step that uses it.

Shape suffixes: N rows, B batch, C classes.
"""

import dataclasses
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
from training.loop.augment import preparation, prepare
from training.loop.losses import balanced_probabilities
from training.loop.mixing import mix
from training.loop.order import EpochOrder, epoch_order, share, steps_per_epoch
from training.loop.placement import place
from training.loop.worker import Worker
from training.recipe import Recipe
from training.task import Split

PREFETCH = 2  # batches a loading thread is ahead
MAX_LOADERS = 8
# A train split that takes less than this share of a GPU's free memory lives there, where nothing is done to its rows on
# the CPU: no copy a step.
RESIDENT_SHARE = 0.25


@dataclass(frozen=True)
class Batch:
    """A worker's share of the batch of `epoch` and `step`, which has `rows` rows in all.

    `targets` are int64 [B], or probabilities [B, C] when mixed. Until it is finished a batch that is to be mixed may
    hold, after the worker's own rows, the partner of each.
    """

    epoch: int
    step: int
    ids: NDArray[np.int64]
    inputs: Tensor
    targets: Tensor
    rows: int


class Batches:
    """The train split as batches, a pure function of (seed, epoch, step) and of this worker's place among the others.

    Rows lie in memory, memory-mapped on disk, or on the GPU where they fit. Threads read the next batches meanwhile.
    For a model on the CPU they finish them; for one on a GPU they pin them, and `to_device` finishes them there, where
    it is fastest to change a whole batch at once. They are threads because all they do lets go of the interpreter, and
    arrays are shared by them.
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

    def to_device(self, batch: Batch) -> Batch:
        """`batch` where the model is, finished; the copy to a GPU goes on while the caller does."""
        if not self._travels:
            return batch
        inputs, targets = (part.to(self._worker.device, non_blocking=True) for part in (batch.inputs, batch.targets))
        return self._finished(dataclasses.replace(batch, inputs=inputs, targets=targets))

    def rows(self, ids: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """Inputs, augmented for `epoch`, and int64 labels of any rows of the split, where the model is."""
        inputs, labels = (part.to(self._worker.device) for part in self._rows_read(ids, epoch))
        return prepare(self._prepare.on_device, inputs, epoch, ids), labels

    def _read(self, order: EpochOrder, epoch: int, step: int) -> Batch:
        worker, whole = self._worker, order.batch(step)
        ids = share(whole, worker.rank, worker.world_size)
        if self._mixes and worker.world_size > 1:
            # The partner is the next row of the global batch, so that it does not depend on the number of workers.
            ids = np.concatenate([ids, share(np.roll(whole, -1), worker.rank, worker.world_size)])
        inputs, targets = self._rows_read(ids, epoch)
        if self._travels:
            return Batch(epoch, step, ids, inputs.pin_memory(), targets.pin_memory(), len(whole))
        return self._finished(Batch(epoch, step, ids, inputs, targets, len(whole)))

    def _rows_read(self, ids: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """Inputs, with what is done to them on the CPU, and labels, where they lie."""
        if self._resident is not None:
            inputs, labels = self._resident
            where = place(ids, inputs.device)
            return inputs[where], labels[where]
        inputs, labels = torch.from_numpy(self._train.inputs[ids]), torch.from_numpy(self._train.labels[ids])
        return prepare(self._prepare.on_cpu, inputs, epoch, ids), labels

    def _finished(self, batch: Batch) -> Batch:
        """`batch` as the model shall see it: each row changed by its own draws, then mixed with its partner."""
        inputs = prepare(self._prepare.on_device, batch.inputs, batch.epoch, batch.ids)
        if not self._mixes:
            return dataclasses.replace(batch, inputs=inputs)
        rows, partner_rows = self._partnered(inputs)
        targets, partner_targets = self._partnered(functional.one_hot(batch.targets, self._classes).to(torch.float32))
        inputs, targets = mix(
            rows, partner_rows, targets, partner_targets,
            self._recipe.augmentation, self._recipe.seed, batch.epoch, batch.step,
        )  # fmt: skip
        return dataclasses.replace(batch, ids=batch.ids[: len(inputs)], inputs=inputs, targets=targets)

    def _partnered(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """A worker's own of what was read to be mixed, and its partners'; alone, it has them all itself."""
        if self._worker.world_size == 1:
            return parts, parts.roll(-1, 0)
        own, partners = parts.chunk(2)
        return own, partners

    @property
    def _travels(self) -> bool:
        """Whether batches are read elsewhere than where the model is."""
        return self._worker.on_gpu and self._resident is None

    @cached_property
    def _resident(self) -> tuple[Tensor, Tensor] | None:
        """Inputs and labels on the GPU, where they fit well and are wanted nowhere else."""
        worker, inputs = self._worker, self._train.inputs
        if not worker.on_gpu or self._prepare.on_cpu:
            return None
        if inputs.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(worker.device)[0]:
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
