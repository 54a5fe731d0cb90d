"""Batches that a Runner is timed on: as a server would send them."""

import numpy as np

from training.artifact import Artifact
from training.encoding import Array, Encoding, ImageEncoding, TextEncoding


def as_served(encoding: Encoding, inputs: Array) -> Array:
    """A server pads texts to the longest of a batch; the splits hold them at full length, which takes longer."""
    if not isinstance(encoding, TextEncoding):
        return inputs
    longest = int((inputs != encoding.pad_id).sum(axis=1).max())
    return inputs[:, : max(1, longest)]


def sample_batch(artifact: Artifact, rows: int) -> Array:
    """Rows that the Artifact's model can read: noise for pixels, texts of the greatest length for tokens."""
    encoding = artifact.manifest.encoding
    if isinstance(encoding, ImageEncoding):
        shape = (rows, encoding.channels, encoding.height, encoding.width)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return np.full((rows, encoding.max_tokens), 1 if encoding.pad_id == 0 else 0, dtype=np.int64)


def parity_lengths(encoding: Encoding, inputs: Array) -> tuple[int, ...]:
    """Lengths besides the full one at which parity is looked at: half of it for texts, none for images."""
    if not isinstance(encoding, TextEncoding):
        return ()
    return (max(1, inputs.shape[1] // 2),)
