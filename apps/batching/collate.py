"""Collate: parts of a batch side by side, padded to a size that the runtime likes, and apart again."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from training.encoding import Array


def padded_rows(rows: int, sizes: Sequence[int]) -> int:
    """The next of `sizes` (ascending) that holds `rows`; `rows` itself where there is none."""
    index = bisect_left(sizes, rows)
    return sizes[index] if index < len(sizes) else rows


def collate(parts: Sequence[Array], pad_id: int) -> Array:
    """Parts [B_i, ...] -> one batch; token ids [B_i, L_i] are padded on the right to the longest."""
    return Collator(pad_id)(parts)


class Collator:
    """Writes each batch into the same buffer: the batch is of use until the next one is collated."""

    def __init__(self, pad_id: int = 0, sizes: Sequence[int] = (), room: int = 1) -> None:
        self._pad_id = pad_id
        self._sizes = tuple(sizes)
        self._room = room
        self._buffer: Array | None = None

    def __call__(self, parts: Sequence[Array]) -> Array:
        """One batch, its padding rows (copies of the last) at the end; a single part that needs none comes as it is."""
        first = parts[0]
        rows = sum(map(len, parts))
        target = padded_rows(rows, self._sizes)
        if len(parts) == 1 and target == rows:
            return first
        if first.ndim == 2 and any(part.shape[1] != first.shape[1] for part in parts):
            longest = max(part.shape[1] for part in parts)
            parts = [
                np.pad(part, ((0, 0), (0, longest - part.shape[1])), constant_values=self._pad_id) for part in parts
            ]
        batch_B = self._space(parts[0], target)
        np.concatenate(parts, out=batch_B[:rows], casting="no")
        batch_B[rows:] = batch_B[rows - 1]
        return batch_B

    def _space(self, like: Array, rows: int) -> Array:
        buffer = self._buffer
        if buffer is None or len(buffer) < rows or buffer.shape[1:] != like.shape[1:] or buffer.dtype != like.dtype:
            buffer = self._buffer = np.empty((max(rows, self._room), *like.shape[1:]), like.dtype)
        return buffer[:rows]
