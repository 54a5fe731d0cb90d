"""Gate: may a candidate take a reference's place, by paired answers on the gate split's rows.

Shape suffixes: N rows, C classes.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimization.cascade import Rows, clopper_pearson_lower
from optimization.measure import Parity
from optimization.table import size_text
from training.encoding import Array
from training.evaluation.scores import check_logits

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of a candidate minus that of its reference on the same rows.

    `lower` and `upper` are one-sided bounds, each at `confidence`; together they are an interval at
    2 * confidence - 1. `reference_only` and `candidate_only` count the rows that only one got right.
    """

    difference: float
    lower: float
    upper: float
    reference_only: int
    candidate_only: int
    rows: int
    confidence: float


@dataclass(frozen=True)
class Check:
    """One condition: the figure measured, the limit it was held to, and a sentence that says both."""

    name: str
    passed: bool
    figure: float
    limit: float
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Passed when every check did."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def paired_difference(
    reference_correct: NDArray[np.bool_], candidate_correct: NDArray[np.bool_], confidence: float = CONFIDENCE
) -> PairedDifference:
    """Difference of two paired proportions with Tango's score bounds.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998), 891-908.
    """
    if reference_correct.shape != candidate_correct.shape or reference_correct.ndim != 1 or not reference_correct.size:
        raise ValueError(
            f"correctness of shapes {reference_correct.shape} and {candidate_correct.shape} cannot be paired: "
            "give one bool a row, for the same rows"
        )
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: it must lie between 0.5 and 1")
    rows = len(reference_correct)
    reference_only = int((reference_correct & ~candidate_correct).sum())
    candidate_only = int((candidate_correct & ~reference_correct).sum())
    # The problem is symmetric: the upper bound is the lower bound of the swapped pair, negated.
    return PairedDifference(
        difference=(candidate_only - reference_only) / rows,
        lower=_tango_lower(candidate_only, reference_only, rows, confidence),
        upper=-_tango_lower(reference_only, candidate_only, rows, confidence),
        reference_only=reference_only,
        candidate_only=candidate_only,
        rows=rows,
        confidence=confidence,
    )


def flip_rate(reference_N: Array, candidate_N: Array) -> float:
    """Share of rows whose predicted classes differ."""
    if reference_N.shape != candidate_N.shape or not reference_N.size:
        raise ValueError(f"predictions of shapes {reference_N.shape} and {candidate_N.shape} cannot be paired")
    return float((reference_N != candidate_N).mean())


def minimum_rows(margin: float, confidence: float = CONFIDENCE) -> int:
    """Rows below which not even a candidate that never errs where its reference is right could be proven.

    A loss of `margin` would show in none of n rows with probability (1 - margin) ** n.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin is {margin}: the accuracy that may be lost is a fraction between 0 and 1")
    return math.ceil(math.log(1 - confidence) / math.log1p(-margin))


def gate_student(
    labels_N: Array,
    reference_logits_NC: Array,
    candidate_logits_NC: Array,
    *,
    margin: float,
    size_bytes: int,
    reference_size_bytes: int,
    parent_parity: Parity,
    max_flip_rate: float = 0.1,
    max_parent_flip_rate: float = 0.02,
    max_parent_abs_diff: float | None = None,
    confidence: float = CONFIDENCE,
) -> Verdict:
    """Judges a student against its teacher, and against its own float parent.

    Non-inferior by `margin`; answers that differ from the teacher's on at most `max_flip_rate` of the
    rows; answers that differ from its float parent's on at most `max_parent_flip_rate` of the rows that
    `parent_parity` saw (and logits by at most `max_parent_abs_diff`, where one is given: a change of
    format keeps the logits, a change of precision only the answers); smaller than the teacher.
    """
    check_logits(reference_logits_NC, labels_N)
    check_logits(candidate_logits_NC, labels_N)
    reference_N, candidate_N = reference_logits_NC.argmax(axis=1), candidate_logits_NC.argmax(axis=1)
    flips = flip_rate(reference_N, candidate_N)
    correct = (reference_N == labels_N, candidate_N == labels_N)
    checks = [
        non_inferior(*correct, margin, confidence, "The student", "the teacher"),
        _at_most("flips", flips, max_flip_rate, "{0:.2%} of the student's answers differ from the teacher's"),
        _at_most(
            "parent_flips",
            parent_parity.flip_rate,
            max_parent_flip_rate,
            f"{{0:.2%}} of {parent_parity.rows} answers differ from those of the student before compression",
        ),
        _smaller(size_bytes, reference_size_bytes),
    ]
    if max_parent_abs_diff is not None:
        sentence = "Logits differ by up to {0:.2g} from those of the student before compression"
        checks.append(
            _at_most("parent_difference", parent_parity.max_abs_diff, max_parent_abs_diff, sentence, "{0:.2g}")
        )
    return Verdict(tuple(checks))


def gate_release(
    labels_N: Array,
    teacher_logits_NC: Array,
    student_logits_NC: Array,
    *,
    temperature: float,
    threshold: float | None,
    margin: float,
    max_harm: float,
    confidence: float = CONFIDENCE,
) -> Verdict:
    """Judges a pair as it will answer: the cascade non-inferior to its teacher, and harm as promised.

    Harm fails only where these rows contradict the promise: where the exact lower bound of their harm
    lies above `max_harm`. That it holds was shown on the calibration split.
    """
    rows = Rows.score(student_logits_NC, teacher_logits_NC, labels_N, temperature)
    accepted_N = rows.accepted(threshold)
    cascade_correct_N = np.where(accepted_N, rows.student_correct, rows.teacher_correct)
    harmed = int((accepted_N & rows.harmful).sum())
    lower = clopper_pearson_lower(harmed, len(labels_N), confidence)
    harm = Check(
        name="harm",
        passed=lower <= max_harm,
        figure=harmed / len(labels_N),
        limit=max_harm,
        sentence=(
            f"{harmed} of {len(labels_N)} rows were harmed by the student's answering; "
            f"{'this agrees with' if lower <= max_harm else 'this contradicts'} the promise of at most {max_harm:.2%}"
        ),
    )
    return Verdict(
        (
            non_inferior(rows.teacher_correct, cascade_correct_N, margin, confidence, "The pair", "the teacher alone"),
            harm,
        )
    )


def non_inferior(
    reference_correct: NDArray[np.bool_],
    candidate_correct: NDArray[np.bool_],
    margin: float,
    confidence: float = CONFIDENCE,
    candidate: str = "The candidate",
    reference: str = "the reference",
) -> Check:
    """Passes when the lower bound of candidate minus reference accuracy is at least -`margin`."""
    needed = minimum_rows(margin, confidence)
    paired = paired_difference(reference_correct, candidate_correct, confidence)
    if paired.rows < needed:
        sentence = (
            f"Too few rows: {paired.rows}; at least {needed} are needed to show at {confidence:.0%} confidence "
            f"that no more than {margin * 100:.3g} points are lost"
        )
        return Check("non_inferior", False, paired.lower, -margin, sentence)
    passed = paired.lower >= -margin
    sentence = (
        f"{candidate} scores {paired.difference * 100:+.2f} points against {reference} on {paired.rows} rows "
        f"({paired.candidate_only} rows won, {paired.reference_only} lost), at least {paired.lower * 100:+.2f} with "
        f"{confidence:.0%} confidence; {'within' if passed else 'beyond'} the margin of {margin * 100:.3g} points"
    )
    return Check("non_inferior", passed, paired.lower, -margin, sentence)


def _at_most(name: str, figure: float, limit: float, sentence: str, shown: str = "{0:.2%}") -> Check:
    return Check(name, figure <= limit, figure, limit, f"{sentence.format(figure)}; at most {shown.format(limit)} may")


def _smaller(size_bytes: int, reference_size_bytes: int) -> Check:
    if size_bytes < 1 or reference_size_bytes < 1:
        raise ValueError(f"sizes are {size_bytes} and {reference_size_bytes} bytes: an Artifact holds at least one")
    sentence = (
        f"{size_text(size_bytes)} against the teacher's {size_text(reference_size_bytes)}, "
        f"{reference_size_bytes / size_bytes:.2f} times smaller"
    )
    return Check("smaller", size_bytes < reference_size_bytes, float(size_bytes), float(reference_size_bytes), sentence)


def _tango_lower(gained: int, lost: int, rows: int, confidence: float) -> float:
    """The smallest difference that Tango's score test does not reject from below."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    wanted = float(norm.ppf(confidence))
    estimate = (gained - lost) / rows
    if estimate <= -1:
        return -1.0
    # The score falls from above `wanted` at -1 to 0 at the estimate.
    return float(brentq(lambda d: _tango_score(gained, lost, rows, d) - wanted, -1 + 1e-12, estimate, xtol=1e-10))


def _tango_score(gained: int, lost: int, rows: int, difference: float) -> float:
    """Tango's statistic: standard errors between the estimate and `difference`."""
    excess = gained - lost - rows * difference
    a = 2 * rows
    b = -gained - lost + (2 * rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    lost_share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = rows * (2 * lost_share + difference * (1 - difference))
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)
