"""Ledger: what a sweep has found out so far, on disk, so that the same command goes on after a kill.

Ray Tune's own experiment state is not resumed from: it is written in place, so that a kill may tear it and the sweep
would silently begin anew; and it holds neither what ASHA compares with nor, for a resumed trial, its place under the
limit of concurrent trials. Here each trial has a small file that is replaced at once, never edited.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from training.tuning.space import Point
from training.tuning.undertaking import Undertaking, write_json

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Score:
    """One epoch of a trial, counted from 1, on the val split.

    `digest` is the sha256 of the weights after it, where trials may copy each other's.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    seconds: float
    digest: str = ""


@dataclass(frozen=True)
class Exploit:
    """A trial gave its own weights up for those that trial `source` had after `epoch`, and went on with `point`.

    `digest` is the sha256 of the copied weights.
    """

    epoch: int
    source: int
    digest: str
    point: Point


@dataclass(frozen=True)
class Trial:
    """`stopped` by the scheduler before its last epoch, `failed` by an error of its own or with its process."""

    number: int
    initial: Point
    run_id: str
    status: Status = "running"
    scores: tuple[Score, ...] = ()
    exploits: tuple[Exploit, ...] = ()
    error: str = ""

    @property
    def point(self) -> Point:
        return self.exploits[-1].point if self.exploits else self.initial

    @property
    def best(self) -> Score | None:
        """The epoch with the highest val accuracy, the later of equals, as a training keeps it."""
        return max(self.scores, key=lambda score: (score.val_accuracy, score.epoch), default=None)

    @property
    def accuracy(self) -> float:
        """Of the best epoch; NaN before the first."""
        return self.best.val_accuracy if self.best else math.nan

    @property
    def epoch(self) -> int:
        return self.scores[-1].epoch if self.scores else 0

    def point_at(self, epoch: int) -> Point:
        """What the weights after `epoch` were last trained with."""
        before = [exploit.point for exploit in self.exploits if exploit.epoch < epoch]
        return before[-1] if before else self.initial

    def scored(self, score: Score) -> "Trial":
        """With one epoch more. One that a resumed trial repeats stands already."""
        return self if score.epoch <= self.epoch else replace(self, scores=(*self.scores, score))

    def exploited(self, exploit: Exploit) -> "Trial":
        """What was scored after the epoch at which it went on is of weights that it no longer has."""
        kept = tuple(score for score in self.scores if score.epoch <= exploit.epoch)
        return replace(self, scores=kept, exploits=(*self.exploits, exploit))


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The best first: by val accuracy, of equals by val loss, then by number; the failed last."""

    def place(trial: Trial) -> tuple[bool, float, float, int]:
        if trial.best is None:
            return trial.status == "failed", 1.0, 0.0, trial.number
        return trial.status == "failed", -trial.best.val_accuracy, trial.best.val_loss, trial.number

    return sorted(trials, key=place)


@dataclass(frozen=True)
class Ledger(Undertaking):
    """The folder of one sweep: `sweep.json`, `trials/NUMBER.json`, and `checkpoints/NUMBER/` while it runs."""

    def begin(self, identity: Mapping[str, Any]) -> None:
        super().begin(identity)
        (self.folder / "trials").mkdir(exist_ok=True)

    def trials(self) -> dict[int, Trial]:
        """By number, in order."""
        files = sorted((self.folder / "trials").glob("*.json"))
        return {trial.number: trial for trial in (_trial(json.loads(path.read_text())) for path in files)}

    def trial(self, number: int) -> Trial:
        return _trial(json.loads(self._file(number).read_text()))

    def save(self, trial: Trial) -> None:
        write_json(self._file(trial.number), asdict(trial))

    def _file(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}.json"

    def checkpoints(self, number: int) -> Path:
        return self.folder / "checkpoints" / f"{number:04d}"

    def drop_checkpoints(self) -> None:
        """They are for going on; of a sweep that is done, the scores suffice."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)


def _trial(data: Mapping[str, Any]) -> Trial:
    scores = tuple(Score(**score) for score in data["scores"])
    exploits = tuple(Exploit(**exploit) for exploit in data["exploits"])
    return Trial(**{**data, "scores": scores, "exploits": exploits})
