"""Resplits: whether a guarantee keeps what it says, by calibrating again and again on other rows of one set.

Shape suffixes: N rows, C classes.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimization.cascade.calibration import certify
from optimization.cascade.rows import Rows, pair_correct
from training.encoding import Array
from training.evaluation.scores import clopper_pearson
from training.evaluation.temperature import fit_temperature


@dataclass(frozen=True)
class Resplit:
    """One calibration: its threshold, and how the pair did with it on the rows that it was not made from.

    `harm_all` is the harm on every row of the set. The guarantee is about the population that rows are drawn from. With
    rows drawn from the set without putting them back, that is the set as a whole, where the exact bound holds as it is
    stated; the rows left over are a second draw from it, with a noise of their own.
    """

    threshold: float | None
    kind: str
    temperature: float
    deferral: float
    harm: float
    harm_all: float
    accuracy: float


@dataclass(frozen=True)
class Resplits:
    """Many calibrations on `rows` rows each, of which `temperature_rows` fitted the temperature alone."""

    max_harm: float
    confidence: float
    rows: int
    temperature_rows: int
    set_rows: int
    resplits: tuple[Resplit, ...]

    @property
    def held(self) -> float:
        """The share of calibrations whose harm on the rows left over was within the bound."""
        return sum(found.harm <= self.max_harm for found in self.resplits) / len(self.resplits)

    @property
    def held_all(self) -> float:
        """The share of calibrations whose harm on the whole set was: what the guarantee is about."""
        return sum(found.harm_all <= self.max_harm for found in self.resplits) / len(self.resplits)

    def interval(self, share: float) -> tuple[float, float]:
        """Exact, at 95 %."""
        return clopper_pearson(round(share * len(self.resplits)), len(self.resplits))

    @property
    def mean_harm(self) -> float:
        return float(np.mean([found.harm for found in self.resplits]))

    @property
    def mean_deferral(self) -> float:
        return float(np.mean([found.deferral for found in self.resplits]))

    @property
    def mean_accuracy(self) -> float:
        return float(np.mean([found.accuracy for found in self.resplits]))

    def count(self, kind: str) -> int:
        return sum(found.kind == kind for found in self.resplits)

    def to_json(self) -> dict[str, Any]:
        shares = {"held": self.held, "held_all": self.held_all}
        means = {"mean_harm": self.mean_harm, "mean_deferral": self.mean_deferral, "mean_accuracy": self.mean_accuracy}
        # A column a figure: hundreds of calibrations name their fields once.
        columns = {name: [getattr(one, name) for one in self.resplits] for name in Resplit.__dataclass_fields__}
        return {**asdict(self), **shares, **means, "resplits": columns}


def resplit(
    student_logits_NC: Array,
    teacher_logits_NC: Array,
    labels_N: NDArray[np.int64],
    *,
    rows: int,
    temperature_rows: int,
    max_harm: float,
    resplits: int,
    confidence: float = 0.95,
    seed: int = 0,
) -> Resplits:
    """Calibrates on `rows` random rows `resplits` times; the first `temperature_rows` of them fit the temperature.

    Raises ValueError where there are too few rows to draw from and to look at.
    """
    total = len(labels_N)
    if not 0 < temperature_rows < rows < total or resplits < 1:
        raise ValueError(
            f"{resplits} resplits of {rows} rows, {temperature_rows} of them for the temperature, out of {total}: "
            "each part needs at least one row, and so do the rows left over"
        )
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(resplits):
        order = generator.permutation(total)
        fitted, drawn, rest = order[:temperature_rows], order[temperature_rows:rows], order[rows:]
        temperature = fit_temperature(student_logits_NC[fitted], labels_N[fitted])
        scored = Rows.score(student_logits_NC, teacher_logits_NC, labels_N, temperature)
        threshold, guarantee = certify(scored.take(drawn), max_harm, confidence)
        accepted = scored.accepted(threshold)
        harmed = accepted & scored.harmful
        found.append(
            Resplit(
                threshold=threshold,
                kind=guarantee.kind,
                temperature=temperature,
                deferral=float(1 - accepted[rest].mean()),
                harm=float(harmed[rest].mean()),
                harm_all=float(harmed.mean()),
                accuracy=float(pair_correct(scored, threshold)[rest].mean()),
            )
        )
    return Resplits(max_harm, confidence, rows, temperature_rows, total, tuple(found))
