"""Method: how a sweep chooses its points and when it gives one up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from training.tuning.space import Space

MethodName = Literal["grid", "random", "tpe", "asha", "hyperband", "pbt"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)

# What may change while a model trains: neither its shape, nor the number of steps, which the schedule is made for.
CHANGEABLE = (
    "optimizer.lr",
    "optimizer.weight_decay",
    "optimizer.momentum",
    "label_smoothing",
    "focal_gamma",
    "clip_norm",
)
CHANGEABLE_FOLDER = "augmentation."


@dataclass(frozen=True)
class Method:
    """grid: every combination. random: points drawn at random. tpe: points like those that did well.

    asha: random points, of which after `grace` epochs and after each `reduction` times as many one in `reduction`
    goes on (Li et al. 2020). hyperband: the same in several brackets that begin to stop later and later, for where
    early epochs may mislead; trials are not waited for (ibid., asynchronous Hyperband).
    pbt: all train at once; every `interval` epochs the worst quarter takes the weights of the best and perturbs its
    point (Jaderberg et al. 2017).
    """

    name: MethodName
    seed: int = 0
    grace: int = 1
    reduction: int = 3
    interval: int = 1

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise ValueError(f"{self.name!r} is no way to search; there is: {', '.join(METHODS)}")
        if self.grace < 1 or self.interval < 1:
            raise ValueError(f"grace {self.grace}, interval {self.interval}: both count epochs, from 1")
        if self.reduction < 2:
            raise ValueError(f"reduction is {self.reduction}: of at least 2 trials one goes on")

    @property
    def halves(self) -> bool:
        return self.name in ("asha", "hyperband")

    def decisions(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which a trial of so many may be stopped, or changed."""
        if self.name == "pbt":
            return tuple(range(self.interval, epochs, self.interval))
        if not self.halves:
            return ()
        rungs = (self.grace * self.reduction**step for step in range(epochs))
        return tuple(rung for rung in rungs if rung < epochs)

    def require_fitting(self, space: Space, trials: int, epochs: int) -> None:
        """Raises ValueError where the method cannot work on this space, or would do nothing."""
        if self.name in ("asha", "hyperband", "pbt") and not self.decisions(epochs):
            option = "interval" if self.name == "pbt" else "grace"
            raise ValueError(
                f"{self.name} has nothing to decide: trials of {epochs} epochs end before {option} "
                f"{getattr(self, option)}; lower --{option}, set more epochs, or search by random"
            )
        if self.name != "pbt":
            return
        if trials < 2:
            raise ValueError("a population of 1 has nobody to copy: give --trials 2 or more")
        fixed = [field for field in space.fields if not _changeable(field)]
        if fixed:
            raise ValueError(
                f"pbt changes fields while a model trains, and {', '.join(fixed)} cannot be: it may vary "
                f"{', '.join(CHANGEABLE)} and {CHANGEABLE_FOLDER}*; search over the others by asha"
            )
        for one in space.ranges:
            values: Sequence[str | float] = one.choices if one.kind == "choice" else (one.low,)
            if one.field == "optimizer.weight_decay" and any(float(value) == 0 for value in values):
                raise ValueError(
                    f"range of {one.field}: of a decay of 0 no optimizer knows what to decay; begin above 0"
                )


def _changeable(field: str) -> bool:
    return field in CHANGEABLE or field.startswith(CHANGEABLE_FOLDER)
