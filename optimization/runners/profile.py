"""ShapeProfile: between which input shapes native code is built, and for which one it is made fast."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.encoding import TensorSpec


@dataclass(frozen=True)
class ShapeProfile:
    """Of the model's one input: `min_shape` <= `opt_shape` <= `max_shape`, axis by axis; the batch axis is first.

    Raises ValueError where the three are no such shapes.
    """

    min_shape: tuple[int, ...]
    opt_shape: tuple[int, ...]
    max_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        shapes = (self.min_shape, self.opt_shape, self.max_shape)
        if len({len(shape) for shape in shapes}) != 1 or not self.min_shape:
            raise ValueError(f"{self}: the three shapes must have the same axes, one at least")
        for low, usual, high in zip(*shapes, strict=True):
            if not 1 <= low <= usual <= high:
                raise ValueError(f"{self}: on every axis it must hold that 1 <= min <= opt <= max")

    def __str__(self) -> str:
        return f"shape profile {list(self.min_shape)} / {list(self.opt_shape)} / {list(self.max_shape)}"

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether an input of `shape` lies between the smallest and the largest."""
        return len(shape) == len(self.min_shape) and all(
            low <= size <= high for low, size, high in zip(self.min_shape, shape, self.max_shape, strict=True)
        )

    def require_fit(self, spec: TensorSpec) -> None:
        """Raises ValueError unless the profile moves on the dynamic axes of `spec` alone."""
        if len(self.min_shape) != len(spec.shape):
            raise ValueError(f"{self} has {len(self.min_shape)} axes, input {spec.name!r} has {len(spec.shape)}")
        for axis, size in enumerate(spec.shape):
            if size != -1 and (self.min_shape[axis], self.max_shape[axis]) != (size, size):
                raise ValueError(f"{self}: axis {axis} of input {spec.name!r} is always {size}")


def profile_for(
    spec: TensorSpec, batch: tuple[int, int, int] = (1, 8, 32), length: tuple[int, int, int] = (1, 64, 256)
) -> ShapeProfile:
    """The profile with `batch` (min, opt, max) rows; any further dynamic axis takes `length`."""
    low, usual, high = (
        tuple((batch if axis == 0 else length)[which] if size == -1 else size for axis, size in enumerate(spec.shape))
        for which in range(3)
    )
    return ShapeProfile(low, usual, high)
