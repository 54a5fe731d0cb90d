"""Draws: random numbers that depend on (seed, epoch, row) alone, not on which rows are drawn together or in what order.

They are hashed, not generated in turn: splitmix64 (Steele, Lea and Flood 2014), for each row from a key of its own.

Shape suffixes: B batch, D draws.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment: 2^64 over the golden ratio, odd
_MASK = 2**64 - 1


def keys(seed: int, epoch: int, ids_B: NDArray[np.int64], stream: int = 0) -> NDArray[np.uint64]:
    """A number of 64 bits for each row, uint64 [B]; another `stream` is another number."""
    state = np.zeros(1, np.uint64)
    for number in (seed, stream, epoch):
        state = _mixed((state ^ np.uint64(number & _MASK)) + _GOLDEN)
    return _mixed((state ^ np.asarray(ids_B, np.int64).view(np.uint64)) + _GOLDEN)


def uniforms(seed: int, epoch: int, ids_B: NDArray[np.int64], draws: int, stream: int = 0) -> NDArray[np.float32]:
    """Uniform numbers in 0 <= x < 1, float32 [B, draws].

    A row's first draws stay what they are when more of them are asked for.
    """
    counters_D = np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN
    bits_BD = _mixed(keys(seed, epoch, ids_B, stream)[:, None] + counters_D)
    # The 24 bits that a float32 holds exactly, so that none is rounded up to 1.
    return (bits_BD >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer; arrays of uint64 wrap around, as it wants."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
