"""Order: which samples a worker reads at a step, as a pure function of (seed, epoch, step, rank, world size)."""

import numpy as np
from numpy.typing import NDArray

POOL_BATCHES = 20  # sorted in pools of so many batches, the longest row of one is near its mean


def epoch_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """A permutation of range(rows), the same in every process."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def group_by_length(
    order: NDArray[np.int64], lengths_N: NDArray[np.int64], batch_size: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """`order` with rows of like length in each batch, and the batches shuffled: less padding, the same rows read.

    Rows are sorted within pools of POOL_BATCHES batches alone, so that the company a row keeps changes with the
    epoch. `lengths_N` is the length of every row. What follows the last whole batch stays where it is.
    """
    whole = len(order) // batch_size * batch_size
    pool = POOL_BATCHES * batch_size
    pools = [order[first : min(first + pool, whole)] for first in range(0, whole, pool)]
    grouped = [rows[np.argsort(lengths_N[rows], kind="stable")].reshape(-1, batch_size) for rows in pools]
    if not grouped:
        return order
    batches = np.random.default_rng((seed, epoch, 1)).permutation(np.concatenate(grouped))
    return np.concatenate([batches.reshape(-1), order[whole:]])


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Whole global batches in an epoch; a rest that fills none is left for other epochs' permutations."""
    return max(1, rows // batch_size)


def step_ids(
    order: NDArray[np.int64], step: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> NDArray[np.int64]:
    """The rows that worker `rank` reads at `step`: its stride of the global batch."""
    return order[step * batch_size : (step + 1) * batch_size][rank::world_size]
