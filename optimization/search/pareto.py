"""Pareto: which points no other one beats, and which go on to the next rung."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """What counts of one pipeline: accuracy is to be high, the time of a row and the size low."""

    number: int
    accuracy: float
    row_ms: float
    size_bytes: int

    def dominates(self, other: "Point") -> bool:
        """At least as good in everything, and better in something."""
        mine = (-self.accuracy, self.row_ms, self.size_bytes)
        others = (-other.accuracy, other.row_ms, other.size_bytes)
        return mine != others and all(own <= theirs for own, theirs in zip(mine, others, strict=True))


def front(points: Sequence[Point]) -> list[Point]:
    """Those that none dominates, the most accurate first."""
    kept = [point for point in points if not any(other.dominates(point) for other in points)]
    return sorted(kept, key=lambda point: (-point.accuracy, point.row_ms, point.size_bytes, point.number))


def layers(points: Sequence[Point]) -> list[list[Point]]:
    """The front, the front of the rest, and so on (non-dominated sorting: Deb et al. 2002, "NSGA-II")."""
    left, found = list(points), []
    while left:
        best = front(left)
        found.append(best)
        left = [point for point in left if point not in best]
    return found


def survivors(points: Sequence[Point], keep: float) -> list[int]:
    """The numbers of at least the share `keep` of the points, layer by layer; a layer is kept or dropped whole.

    So no point goes on while one that beats it in everything does not, and the whole front always does.
    """
    wanted, kept = math.ceil(keep * len(points)), list[int]()
    for layer in layers(points):
        if kept and len(kept) >= wanted:
            break
        kept += [point.number for point in layer]
    return sorted(kept)
