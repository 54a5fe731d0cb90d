"""Cascade study: one pair beside the best single variant, every choice made before the report rows are read.

Shape suffixes: N rows, C classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimization.benchmark.cascade_times import Roles, RowTimes, Timed
from optimization.cascade.calibration import Calibration, calibrate, pair_curve
from optimization.cascade.cost import CostPoint, cost_curve
from optimization.cascade.resplits import Resplits, resplit
from optimization.cascade.rows import PairScore, Rows, pair_correct, score_pair
from optimization.cascade.shift import Shift
from optimization.cascade.target import Prospect, foresee, loosest_that, strictest_within
from optimization.gate import Check, gate_release, non_inferior
from optimization.measure.host import Host
from optimization.measure.paired import PairedDifference, paired_difference

CONFIDENCE = 0.95
BOUNDS = tuple(round(0.0025 * step, 4) for step in range(1, 17))
# A fitted temperature only spreads the confidences; the threshold's guarantee is what rows are short for.
TEMPERATURE_ROWS = 100
# A pair takes up to so much more than is reckoned from its parts.
PREDICTED = 0.98

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Aim:
    """How level with the best single variant (non-inferior by `margin`), and at which share of its time at most."""

    margin: float = 0.005
    limit: float = 0.50


@dataclass(frozen=True)
class Parts:
    """Labels and every variant's logits [N, C] on one set of rows."""

    labels: NDArray[np.int64]
    logits: Mapping[str, Logits]

    def take(self, rows: NDArray[np.int64]) -> "Parts":
        return Parts(self.labels[rows], {name: logits[rows] for name, logits in self.logits.items()})

    def accuracy(self, name: str) -> float:
        return float((self.logits[name].argmax(axis=1) == self.labels).mean())

    @staticmethod
    def joined(parts: Iterable["Parts"]) -> "Parts":
        """All rows together."""
        every = list(parts)
        logits = {name: np.concatenate([part.logits[name] for part in every]) for name in every[0].logits}
        return Parts(np.concatenate([part.labels for part in every]), logits)


@dataclass(frozen=True)
class Chosen:
    """What calibration and gate rows decided: the bound, the threshold, and whether the pair may go on.

    `levels` says of each prospect whether its median pair is level with the best single variant on the gate rows.
    """

    prospects: tuple[Prospect, ...]
    levels: tuple[Check, ...]
    max_harm: float
    calibration: Calibration
    gate_score: PairScore
    gate_checks: tuple[Check, ...]


@dataclass(frozen=True)
class Reported:
    """What the report rows say, once."""

    score: PairScore
    curve: tuple[CostPoint, ...]
    against_best: PairedDifference
    check: Check
    accuracies: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """All that one run found. `task` names the data, `rows_by` and `models_by` say where rows and models come from;
    `cut_rows` are the numbers of calibration, gate and report rows, `best_of_all` is the best single variant's accuracy
    on all of them together.
    """

    task: str
    rows_by: str
    models_by: str
    command: str
    roles: Roles
    aim: Aim
    times: RowTimes
    chosen: Chosen
    reported: Reported
    timed: tuple[Timed, ...]
    resplits: tuple[Resplits, ...]
    best_of_all: float
    shift: Shift
    host: Host
    cut_rows: tuple[int, ...]
    digests: Mapping[str, str]
    note: str = ""

    @property
    def name(self) -> str:
        """What its files begin with."""
        return f"cascade-{self.task}"

    def to_json(self) -> dict[str, Any]:
        chosen, reported = self.chosen, self.reported
        return {
            "task": self.task,
            "note": self.note,
            "host": self.host.to_json(),
            "roles": asdict(self.roles),
            "aim": asdict(self.aim),
            "digests": dict(self.digests),
            "cut_rows": self.cut_rows,
            "row_times": asdict(self.times),
            "prospects": [
                {**asdict(one), "level": asdict(check)}
                for one, check in zip(chosen.prospects, chosen.levels, strict=True)
            ],
            "max_harm": chosen.max_harm,
            "calibration": {**chosen.calibration.to_json(), "curve": None},
            "gate": {"score": chosen.gate_score.to_json(), "checks": [asdict(check) for check in chosen.gate_checks]},
            "report": {
                "score": reported.score.to_json(),
                "against_best": asdict(reported.against_best),
                "check": asdict(reported.check),
                "accuracies": dict(reported.accuracies),
                "curve": [asdict(point) for point in reported.curve],
            },
            "timed": [one.to_json() for one in self.timed],
            "best_of_all": self.best_of_all,
            "resplits": [one.to_json() for one in self.resplits],
            "shift": self.shift.to_json(),
        }


def choose(parts: Mapping[str, Parts], roles: Roles, aim: Aim, times: RowTimes) -> Chosen:
    """The bound by the gate rows, then temperature and threshold by the calibration rows, then the gate."""
    gate, calibration = parts["gate"], parts["calibration"]
    total = len(calibration.labels)
    prospects = foresee(
        gate.logits[roles.student],
        gate.logits[roles.teacher],
        gate.labels,
        bounds=BOUNDS,
        rows=total,
        temperature_rows=TEMPERATURE_ROWS,
        student_ms=times.student_ms,
        teacher_ms=times.teacher_ms,
    )
    levels = {
        one.max_harm: _level(gate, _rows(gate, roles, one.temperature), roles, one.threshold, aim) for one in prospects
    }
    max_harm = _bound(prospects, levels, PREDICTED * aim.limit * times.best_ms).max_harm
    order = np.random.default_rng(0).permutation(total)
    fitted, drawn = (calibration.take(rows) for rows in np.split(order, [TEMPERATURE_ROWS]))
    found = calibrate(
        drawn.logits[roles.student],
        drawn.logits[roles.teacher],
        drawn.labels,
        temperature_logits_MC=fitted.logits[roles.student],
        temperature_labels_M=fitted.labels,
        max_harm=max_harm,
        confidence=CONFIDENCE,
    )
    rows = _rows(gate, roles, found.temperature)
    verdict = gate_release(
        gate.labels,
        gate.logits[roles.teacher],
        gate.logits[roles.student],
        temperature=found.temperature,
        threshold=found.threshold,
        margin=aim.margin,
        max_harm=max_harm,
    )
    level = _level(gate, rows, roles, found.threshold, aim)
    score, checks = score_pair(rows, found.threshold), (level, *verdict.checks)
    return Chosen(prospects, tuple(levels.values()), max_harm, found, score, checks)


def _bound(prospects: tuple[Prospect, ...], levels: Mapping[float, Check], limit_ms: float) -> Prospect:
    """The strictest bound within the time, which leaves the most room to be level; else the loosest level one.

    Of bounds that hold with confidence: one that rows are too few for is kept on average alone, and not the stricter.
    """
    sure = [one for one in prospects if one.kind == "high_probability"] or prospects
    try:
        within = strictest_within(sure, limit_ms)
    except ValueError:
        within = None
    if within is None or not levels[within.max_harm].passed:
        return loosest_that(sure, lambda one: levels[one.max_harm].passed)
    return within


def report(part: Parts, roles: Roles, aim: Aim, chosen: Calibration, times: RowTimes) -> Reported:
    """The pair as it was chosen, on rows that had no part in it."""
    rows = _rows(part, roles, chosen.temperature)
    right = pair_correct(rows, chosen.threshold)
    best_right = part.logits[roles.best].argmax(axis=1) == part.labels
    return Reported(
        score=score_pair(rows, chosen.threshold),
        curve=cost_curve(pair_curve(rows, CONFIDENCE), times.student_ms, times.teacher_ms),
        against_best=paired_difference(best_right, right),
        check=_level(part, rows, roles, chosen.threshold, aim),
        accuracies={name: part.accuracy(name) for name in part.logits},
    )


def resplits(
    everything: Parts, roles: Roles, plans: tuple[tuple[int, int, float], ...], draws: int
) -> tuple[Resplits, ...]:
    """The calibration again and again, for each (rows, rows of them for the temperature, bound) of `plans`."""
    return tuple(
        resplit(
            everything.logits[roles.student],
            everything.logits[roles.teacher],
            everything.labels,
            rows=rows,
            temperature_rows=temperature_rows,
            max_harm=bound,
            resplits=draws,
            confidence=CONFIDENCE,
            seed=1,
        )
        for rows, temperature_rows, bound in plans
    )


def _rows(part: Parts, roles: Roles, temperature: float) -> Rows:
    return Rows.score(part.logits[roles.student], part.logits[roles.teacher], part.labels, temperature)


def _level(part: Parts, rows: Rows, roles: Roles, threshold: float | None, aim: Aim) -> Check:
    """Whether the pair is non-inferior to the best single variant on these rows."""
    best_right = part.logits[roles.best].argmax(axis=1) == part.labels
    return non_inferior(
        best_right, pair_correct(rows, threshold), aim.margin, CONFIDENCE, "The pair", f"{roles.best} alone"
    )
