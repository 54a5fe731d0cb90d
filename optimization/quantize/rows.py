"""Calibration rows: the inputs by which ranges are set and errors measured, found fit for their graph."""

from collections.abc import Iterator, Mapping

import numpy as np

from optimization.quantize.error import QuantizationError
from training.encoding import Array, TensorSpec

BATCH = 32  # at once: all activations of a batch are held together


def require_rows(rows: Array, spec: TensorSpec) -> None:
    """Raises QuantizationError where `rows` are not what the graph's input `spec` takes, are none, or not finite."""
    if rows.dtype != spec.dtype or not spec.admits(rows.shape) or not rows.size:
        raise QuantizationError(
            f"the calibration set is {rows.dtype} {rows.shape}; the graph's input {spec.name!r} "
            f"wants {spec.dtype} {spec.shape}, and at least one row"
        )
    if np.issubdtype(rows.dtype, np.floating) and not np.isfinite(rows).all():
        broken = int((~np.isfinite(rows)).reshape(len(rows), -1).any(axis=1).sum())
        raise QuantizationError(f"{broken} of {len(rows)} calibration rows hold values that are not finite: drop them")


def feeds(rows: Array, name: str) -> Iterator[Mapping[str, Array]]:
    """`rows` in batches, as a session takes them."""
    for first in range(0, len(rows), BATCH):
        yield {name: rows[first : first + BATCH]}
