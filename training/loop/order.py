"""Order: which rows a worker reads at a step, as a pure function of (seed, epoch, step, rank, world size)."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POOL_BATCHES = 20  # sorted in pools of so many batches, the longest row of one is near its mean


@dataclass(frozen=True)
class EpochOrder:
    """The rows of one epoch, `ids` [rows], and where its batches begin and end, `bounds` [steps + 1]."""

    ids: NDArray[np.int64]
    bounds: NDArray[np.int64]

    @property
    def steps(self) -> int:
        return len(self.bounds) - 1

    def batch(self, step: int) -> NDArray[np.int64]:
        """The rows of the global batch of `step`, counted from 0."""
        return self.ids[self.bounds[step] : self.bounds[step + 1]]


def epoch_order(
    seed: int,
    epoch: int,
    rows: int,
    batch_size: int,
    probabilities: NDArray[np.float64] | None = None,
    lengths: NDArray[np.int64] | None = None,
) -> EpochOrder:
    """The order of `epoch`, the same in every process: each of `rows` once, in as few batches as `batch_size` allows.

    The batches' sizes differ by one row at most, and none is above `batch_size`: no row is left out and no last batch
    is so small that it steers the weights alone. With `probabilities` [rows] rows are drawn by them, with replacement.
    With `lengths` [rows] each batch gets rows of like length, sorted within pools of POOL_BATCHES batches alone, so
    that the company a row keeps changes with the epoch, and the batches are shuffled.
    """
    random = np.random.default_rng((seed, epoch))
    ids: NDArray[np.int64] = (
        random.permutation(rows) if probabilities is None else random.choice(rows, size=rows, p=probabilities)
    )
    bounds = batch_bounds(rows, batch_size)
    if lengths is None:
        return EpochOrder(ids, bounds)
    pools = [*bounds[::POOL_BATCHES], rows]
    for first, end in itertools.pairwise(pools):
        pool = ids[first:end]
        ids[first:end] = pool[np.argsort(lengths[pool], kind="stable")]
    batches = [ids[first:end] for first, end in itertools.pairwise(bounds)]
    shuffled = [batches[i] for i in np.random.default_rng((seed, epoch, 1)).permutation(len(batches))]
    return EpochOrder(np.concatenate(shuffled), np.cumsum([0, *map(len, shuffled)]))


def batch_bounds(rows: int, batch_size: int) -> NDArray[np.int64]:
    """Where batches begin and end, [steps + 1]."""
    steps = steps_per_epoch(rows, batch_size)
    return np.arange(steps + 1, dtype=np.int64) * rows // steps


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def share(batch_ids: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """What worker `rank` reads of a global batch: its stride."""
    return batch_ids[rank::world_size]
