"""Shapes: how a load changes with time, for the open loop (requests a second) and for Locust (users) alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

ShapeName = Literal["steady", "step", "spike", "ramp", "diurnal", "drop"]
SHAPE_NAMES: tuple[ShapeName, ...] = get_args(ShapeName)

# From how much of the time has passed to how high the load stands, both 0 to 1: 0 is the base, 1 the peak.
HEIGHT_OF: dict[ShapeName, Callable[[float], float]] = {
    "steady": lambda passed: 1.0,
    # A third each: base, peak, base.
    "step": lambda passed: float(1 / 3 <= passed < 2 / 3),
    "spike": lambda passed: float(0.45 <= passed < 0.55),
    # To saturation and past it: the report shows at which rate the latency leaves the objective.
    "ramp": lambda passed: passed,
    # One day from one night to the next.
    "diurnal": lambda passed: (1 - math.cos(2 * math.pi * passed)) / 2,
    # Six sevenths at the peak, the rest at the base: how soon is all as it was?
    "drop": lambda passed: float(passed < 6 / 7),
}
# Fine enough that a spike's edges lie within 0.01 % of the time.
GRID_POINTS = 10_001


@dataclass(frozen=True)
class Shape:
    """A load between `base` and `peak` over `duration_s`; what the numbers count is for the caller to say."""

    name: ShapeName
    base: float
    peak: float
    duration_s: float

    def __post_init__(self) -> None:
        if self.name not in SHAPE_NAMES:
            raise ValueError(f"shape {self.name!r} is not one of {', '.join(SHAPE_NAMES)}")
        if not 0 <= self.base <= self.peak < math.inf or not self.peak:
            raise ValueError(f"the base is {self.base} and the peak {self.peak}: give 0 <= base <= peak, peak above 0")
        if not 0 < self.duration_s < math.inf:
            raise ValueError(f"duration_s is {self.duration_s}: it must be above 0 and finite")

    def rate(self, at_s: float) -> float:
        """The load `at_s` seconds after the start; before and after it is as at that end."""
        passed = min(max(at_s / self.duration_s, 0.0), 1.0)
        return self.base + (self.peak - self.base) * HEIGHT_OF[self.name](passed)


def arrivals(rate: Callable[[float], float], duration_s: float, gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Arrival times in [0, duration_s) at `rate(t)` a second, from `gaps` that would be those at a rate of 1.

    Exponential gaps of mean 1 give a Poisson process of that rate (time rescaling), gaps of 1 an even one.
    """
    grid_s = np.linspace(0.0, duration_s, GRID_POINTS)
    middles_s = (grid_s[1:] + grid_s[:-1]) / 2
    expected = np.concatenate([[0.0], np.cumsum([rate(float(at_s)) for at_s in middles_s]) * grid_s[1]])
    counts = np.cumsum(gaps)
    # A hair less than expected, so that rounding adds no arrival at the very end.
    times_s: NDArray[np.float64] = np.interp(counts[counts < expected[-1] - 1e-6], expected, grid_s)
    return times_s
