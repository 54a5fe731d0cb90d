"""Gate: may a candidate take a reference's place, by paired answers on the gate split's rows.

Shape suffixes: N rows, C classes.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimization.cascade.bounds import clopper_pearson_lower
from optimization.cascade.rows import Rows, pair_correct
from optimization.measure.latency import Speedup
from optimization.measure.paired import CONFIDENCE, PairedDifference, flip_rate, paired_difference
from optimization.measure.parity import Parity
from optimization.table import size_text
from training.encoding import Array
from training.evaluation.scores import check_logits


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
        at_most("flips", flips, max_flip_rate, "{0:.2%} of the student's answers differ from the teacher's"),
        at_most(
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
            at_most("parent_difference", parent_parity.max_abs_diff, max_parent_abs_diff, sentence, "{0:.2g}")
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
    right = pair_correct(rows, threshold)
    return Verdict(
        (
            non_inferior(rows.teacher_correct, right, margin, confidence, "The pair", "the teacher alone"),
            harm_as_promised(rows, threshold, max_harm, confidence),
        )
    )


def harm_as_promised(rows: Rows, threshold: float | None, max_harm: float, confidence: float = CONFIDENCE) -> Check:
    """Fails where the exact lower bound of these rows' harm lies above the promise."""
    harmed, total = int((rows.accepted(threshold) & rows.harmful).sum()), len(rows)
    lower = clopper_pearson_lower(harmed, total, confidence)
    sentence = (
        f"{harmed} of {total} rows were harmed by the student's answering; "
        f"{'this agrees with' if lower <= max_harm else 'this contradicts'} the promise of at most {max_harm:.2%}"
    )
    return Check("harm", lower <= max_harm, harmed / total, max_harm, sentence)


def non_inferior(
    reference_correct: NDArray[np.bool_],
    candidate_correct: NDArray[np.bool_],
    margin: float,
    confidence: float = CONFIDENCE,
    candidate: str = "The candidate",
    reference: str = "the reference",
) -> Check:
    """Passes when the lower bound of candidate minus reference accuracy is at least -`margin`."""
    paired = paired_difference(reference_correct, candidate_correct, confidence)
    return within_margin(paired, margin, candidate, reference)


def within_margin(
    paired: PairedDifference, margin: float, candidate: str = "The candidate", reference: str = "the reference"
) -> Check:
    """`non_inferior` of a difference that was found before; fails where its rows are too few for the margin."""
    confidence = paired.confidence
    needed = minimum_rows(margin, confidence)
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


def at_most(name: str, figure: float, limit: float, sentence: str, shown: str = "{0:.2%}") -> Check:
    """`sentence` and `shown` are formats of the figure and of the limit."""
    return Check(name, figure <= limit, figure, limit, f"{sentence.format(figure)}; at most {shown.format(limit)} may")


def _smaller(size_bytes: int, reference_size_bytes: int) -> Check:
    if size_bytes < 1 or reference_size_bytes < 1:
        raise ValueError(f"sizes are {size_bytes} and {reference_size_bytes} bytes: an Artifact holds at least one")
    sentence = (
        f"{size_text(size_bytes)} against the teacher's {size_text(reference_size_bytes)}, "
        f"{reference_size_bytes / size_bytes:.2f} times smaller"
    )
    return Check("smaller", size_bytes < reference_size_bytes, float(size_bytes), float(reference_size_bytes), sentence)


def parity_kept(what: str, found: Parity, same_precision: bool, max_flip_rate: float, max_abs_diff: float) -> Check:
    """A change of format alone keeps the logits, up to `max_abs_diff`; a change of precision keeps the answers.

    `what` names the model and what it was made from.
    """
    if same_precision:
        sentence = f"Logits of {what} differ by up to {{0:.2g}} on {found.rows} rows"
        return at_most("parity", found.max_abs_diff, max_abs_diff, sentence, "{0:.2g}")
    sentence = f"{{0:.2%}} of {found.rows} answers of {what} differ"
    return at_most("parity", found.flip_rate, max_flip_rate, sentence)


def worth_it(faster: Speedup, difference: PairedDifference, size_bytes: int, reference_size_bytes: int) -> Check:
    """Passes where the challenger is shown to be faster, smaller or more accurate: a change needs a reason."""
    reasons = []
    if faster.is_faster:
        reasons.append(f"{faster.ratio:.3g} times as fast ({faster.lower:.3g} to {faster.upper:.3g})")
    if size_bytes < reference_size_bytes:
        reasons.append(f"{reference_size_bytes / size_bytes:.3g} times smaller ({size_text(size_bytes)})")
    if difference.lower > 0:
        reasons.append(f"more accurate by {difference.lower * 100:.2f} points or more")
    nothing = (
        f"Neither faster (speed-up {faster.lower:.3g} to {faster.upper:.3g}, which is none unless it is above 1), nor "
        f"smaller ({size_text(size_bytes)} against {size_text(reference_size_bytes)}), nor more accurate for certain"
    )
    sentence = f"The challenger is {', '.join(reasons)}" if reasons else nothing
    return Check("gain", bool(reasons), faster.lower, 1.0, sentence)


def not_slower(faster: Speedup, max_slowdown: float) -> Check:
    """Fails where the challenger takes more than `max_slowdown` times as long for certain."""
    limit = 1 / max_slowdown
    sentence = (
        f"A row takes the challenger {1 / faster.ratio:.3g} times as long as the champion, by the median of "
        f"{faster.rounds} rounds; at most {max_slowdown:.3g} times may"
    )
    return Check("not_slower", faster.upper >= limit, faster.ratio, limit, sentence)
