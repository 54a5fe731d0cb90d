"""Parity: how far the logits of one Runner are from those of another on the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.encoding import Array

BATCH_SIZES = (1, 3, 8)


@dataclass(frozen=True)
class Parity:
    """How far a candidate's logits are from its reference's on the same rows.

    `flips` counts the rows whose predicted class differs at any batch size and length; `max_abs_diff` is the
    largest difference of one logit, infinite where the candidate's is not finite.
    """

    max_abs_diff: float
    flips: int
    rows: int

    @property
    def flip_rate(self) -> float:
        return self.flips / self.rows


def parity(
    reference: Callable[[Array], Array],
    candidate: Callable[[Array], Array],
    inputs: Array,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lengths: Sequence[int] = (),
) -> Parity:
    """Runs both over all `inputs` [N, ...], cut into each of `batch_sizes`, and compares the logits row by row.

    `lengths` are further sizes of the second axis: token rows [N, L] are compared whole and cut to each of them, since
    a graph that froze that axis shows at another length only.
    """
    if not len(inputs) or min(batch_sizes, default=0) < 1:
        raise ValueError(f"{len(inputs)} rows at batch sizes {list(batch_sizes)}: parity needs rows and sizes above 0")
    if any(not 0 < length <= inputs.shape[1] for length in lengths):
        raise ValueError(f"lengths {list(lengths)} of rows of shape {inputs.shape[1:]}: none may be longer, nor 0")
    largest = 0.0
    flipped = np.zeros(len(inputs), dtype=np.bool_)
    for cut in (inputs, *(inputs[:, :length] for length in lengths)):
        for size in batch_sizes:
            for start in range(0, len(inputs), size):
                batch = cut[start : start + size]
                difference, flips = _compare(reference, candidate, batch)
                largest = max(largest, difference)
                flipped[start : start + size] |= flips
    return Parity(largest, int(flipped.sum()), len(inputs))


def _compare(
    reference: Callable[[Array], Array], candidate: Callable[[Array], Array], batch: Array
) -> tuple[float, Array]:
    """The largest difference of a logit, infinite where there is none, and which rows change their class."""
    want, got = (np.asarray(runner(batch), dtype=np.float64) for runner in (reference, candidate))
    if want.shape != got.shape:
        raise ValueError(f"the reference answers {want.shape}, the candidate {got.shape}: no parity to measure")
    difference = np.abs(want - got)
    largest = float(np.where(np.isfinite(difference), difference, np.inf).max())
    return largest, want.argmax(axis=1) != got.argmax(axis=1)
