"""Group: channels that can only go together, and where each of them is made, normalized and read.

Shape suffixes: N positions along an axis of a layer, U units of a group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


class PruneError(ValueError):
    """A model that cannot be pruned as asked."""


@dataclass(frozen=True)
class Axis:
    """What a layer reads ("in") or makes ("out"): which unit of the group each of its positions is of, -1 for none."""

    layer: str
    side: Literal["in", "out"]
    unit_N: NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """`units` channels that the layer `name` makes."""

    name: str
    units: int
    axes: tuple[Axis, ...]


# By a group's name: which of its units stay, bool [U].
Kept = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Channels:
    """The groups of a model, and the layers whose channels have to stay, each with the reason."""

    groups: tuple[Group, ...]
    left: Mapping[str, str]

    @property
    def widths(self) -> dict[str, int]:
        """Name -> units of each group."""
        return {group.name: group.units for group in self.groups}
