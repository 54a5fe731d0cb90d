"""What a search is given to do, the room it has for that, and who is told how it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from training.tuning.ledger import Trial
from training.tuning.space import Point
from training.tuning.trial import Report


class Observer(Protocol):
    """Told of everything, in the process that searches."""

    def started(self, number: int, point: Point) -> None: ...
    def reported(self, number: int, report: Report, stopped: bool) -> None: ...
    def ended(self, number: int) -> None: ...
    def failed(self, number: int, error: str) -> None: ...


@dataclass(frozen=True)
class Room:
    """What Ray Tune reserves for the process of each trial, how many trials may run, and what their workers get."""

    cpus: float
    gpus: float
    trials_at_once: int
    gpus_a_worker: float


@dataclass(frozen=True)
class Queue:
    """`waiting`: number -> point of the trials to run; `more`: numbers whose points TPE has yet to choose; `over`: the
    trials that an earlier process ran, which those to come are compared with.
    """

    waiting: Mapping[int, Point]
    more: Sequence[int] = ()
    over: Sequence[Trial] = ()

    def __len__(self) -> int:
        return len(self.waiting) + len(self.more)
