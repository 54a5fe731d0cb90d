"""Order: which samples a worker reads at a step, as a pure function of (seed, epoch, step, rank, world size)."""

import numpy as np
from numpy.typing import NDArray


def epoch_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """A permutation of range(rows), the same in every process."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Whole global batches in an epoch; a rest that fills none is left for other epochs' permutations."""
    return max(1, rows // batch_size)


def step_ids(
    order: NDArray[np.int64], step: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> NDArray[np.int64]:
    """The rows that worker `rank` reads at `step`: its stride of the global batch."""
    return order[step * batch_size : (step + 1) * batch_size][rank::world_size]
