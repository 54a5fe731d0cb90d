"""Tally: counters, distributions and gauges of one process as plain Python numbers, cheap enough for every request.

One thread writes (the event loop's); any thread may read. Label values of a cell are a tuple in the order of `labels`.
"""

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

# Label values: text, or what str() makes text of, once a flush and not once a request.
Key = tuple[Hashable, ...]


class Cell:
    """Counts by bucket (the last one has no upper edge) and the sum of what was added."""

    __slots__ = ("buckets", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.buckets = [0] * (len(edges) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.buckets[bisect_left(self.edges, value)] += 1
        self.total += value


@dataclass(frozen=True)
class Counts:
    """Numbers that only grow."""

    name: str
    description: str
    labels: tuple[str, ...]
    cells: dict[Key, float] = field(default_factory=dict)

    def add(self, key: Key, amount: float = 1) -> None:
        self.cells[key] = self.cells.get(key, 0) + amount


@dataclass(frozen=True)
class Levels:
    """Numbers that rise and fall."""

    name: str
    description: str
    labels: tuple[str, ...]
    cells: dict[Key, float] = field(default_factory=dict)

    def set(self, key: Key, value: float) -> None:
        self.cells[key] = value

    def shift(self, key: Key, by: int) -> None:
        self.cells[key] = self.cells.get(key, 0) + by


@dataclass(frozen=True)
class Distributions:
    """Histograms with the upper `edges` of their buckets, a value on an edge belonging below it."""

    name: str
    description: str
    labels: tuple[str, ...]
    edges: tuple[float, ...]
    cells: dict[Key, Cell] = field(default_factory=dict)

    def cell(self, key: Key) -> Cell:
        found = self.cells.get(key)
        if found is None:
            found = self.cells[key] = Cell(self.edges)
        return found
