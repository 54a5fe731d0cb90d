"""Summary: what the findings say in plain words - is it good, where does it fail, what held it back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.findings import Findings
from training.evaluation.robustness import SEVERITY_NAMES, Corrupted
from training.evaluation.slices import SIGNIFICANCE

# An error more than this many times as frequent on new rows as on trained ones is one of generalizing.
MANY_TIMES = 3.0
MOST_SLICES = 3
# With fewer errors nothing can be said of where they come from.
FEW_ERRORS = 20
# A temperature is spoken of where it lowers the calibration error at least to this share.
WORTH_SCALING = 0.8


@dataclass(frozen=True)
class Summary:
    """Sentences by question; none is empty."""

    headline: str
    good: tuple[str, ...]
    fails: tuple[str, ...]
    held_back: tuple[str, ...]


def summarize(findings: Findings) -> Summary:
    """The summary by the figures alone; what was not measured is not spoken of."""
    return Summary(
        headline=_headline(findings),
        good=(_accuracy(findings), *_ranks(findings), _confidence(findings), *_kept(findings)),
        fails=tuple(_fails(findings)),
        held_back=tuple(_held_back(findings)),
    )


def percent(share: float) -> str:
    """A share with one decimal, with more where it would read 0 or 100 and is not."""
    if 0 < share < 0.0005 or 0.9995 < share < 1:
        return f"{share:.3%}"
    return f"{share:.1%}"


def span(interval: tuple[float, float]) -> str:
    """An interval of shares."""
    return f"{percent(interval[0])} to {percent(interval[1])}"


def _headline(findings: Findings) -> str:
    scores = findings.evaluation
    parts = [f"{percent(scores.accuracy)} right ({span(scores.interval)})"]
    confusion = worst_confusion(findings)
    held = [one for one in scores.classes if one.support]
    if findings.errors and len(held) > 1:
        worst = min(held, key=lambda one: one.recall)
        parts.append(f"worst class {worst.label}, {percent(worst.recall)}")
    if confusion is not None:
        parts.append(f"most often {confusion[0]} taken for {confusion[1]}")
    robust = findings.robustness
    if robust is not None and robust.worst.accuracy < robust.clean_accuracy:
        parts.append(f"falls to {percent(robust.worst.accuracy)} under {_named(robust.worst)}")
    if findings.confidence.is_off:
        parts.append(_lean(findings))
    return "; ".join(parts)


def _named(worst: Corrupted) -> str:
    return f"{SEVERITY_NAMES[worst.severity]} {worst.corruption}"


def _accuracy(findings: Findings) -> str:
    scores = findings.evaluation
    sentence = (
        f"It is right on {percent(scores.accuracy)} of {scores.rows:,} rows of the {findings.split} split "
        f"(95 % interval {span(scores.interval)}); always answering the commonest class would be right on "
        f"{percent(findings.commonest)}."
    )
    low, high = scores.interval
    if high - low > 0.03:
        sentence += (
            f" {scores.rows:,} rows are few: the interval is {100 * (high - low):.1f} points wide, and models that "
            "differ by less cannot be told apart here."
        )
    return sentence


def _ranks(findings: Findings) -> list[str]:
    scores = findings.evaluation
    macro = findings.macro_f1_interval
    # Rows without an error resample to rows without an error: such an interval would say nothing.
    shown = f" ({span((macro.low, macro.high))})" if findings.errors else ""
    sentences = [
        f"With every class weighed alike: F1 {percent(scores.macro_f1)}{shown}, "
        f"precision {percent(scores.macro_precision)}, recall {percent(scores.macro_recall)}."
    ]
    if findings.errors and scores.top_k:
        top = scores.top_k[0]
        sentences.append(f"The truth is among its {top.k} likeliest answers on {percent(top.accuracy)} of the rows.")
    return sentences


def _confidence(findings: Findings) -> str:
    found = findings.confidence
    if not found.is_off:
        return (
            f"Its confidence can be believed as far as {findings.evaluation.rows:,} rows can tell: the calibration "
            f"error is {percent(found.ece)}, and chance alone would show up to {percent(found.ece_by_chance)}."
        )
    sentence = (
        f"It is {_lean(findings)}: it claims {percent(findings.evaluation.mean_confidence)} in the mean "
        f"(calibration error {percent(found.ece)}; chance alone would show up to {percent(found.ece_by_chance)})."
    )
    if found.temperature is not None and found.ece_scaled is not None and found.ece_scaled < WORTH_SCALING * found.ece:
        effect = "mends that" if found.ece_scaled <= found.ece_by_chance else "helps"
        sentence += (
            f" A temperature of {found.temperature:.2f}, fitted on calibration rows, {effect}: "
            f"{percent(found.ece_scaled)}."
        )
    return sentence


def _lean(findings: Findings) -> str:
    found = findings.confidence
    if found.gap_interval.low <= 0 <= found.gap_interval.high:
        return "miscalibrated, here too sure and there too modest"
    return f"{'overconfident' if found.gap > 0 else 'underconfident'} by {abs(found.gap) * 100:.1f} points"


def _kept(findings: Findings) -> list[str]:
    if not findings.errors:
        return []
    surest = findings.coverage.at(0.8)
    return [f"On the 80 % of rows that it is surest of it is right on {percent(surest.accuracy)}."]


def _fails(findings: Findings) -> list[str]:
    if not findings.errors:
        return [f"Nowhere among these {findings.evaluation.rows:,} rows.", *_under_change(findings)]
    sentences = []
    held = [one for one in findings.evaluation.classes if one.support]
    if len(held) > 1:
        worst = min(held, key=lambda one: one.recall)
        sentences.append(
            f"Its worst class is {worst.label}: {percent(worst.recall)} of its {worst.support:,} rows are found "
            f"({span(worst.recall_interval)})."
        )
    confusion = worst_confusion(findings)
    if confusion is not None:
        truth, answer, rows = confusion
        sentences.append(
            f"Its commonest mistake is to take {truth} for {answer}: {rows:,} of its {findings.errors:,} errors."
        )
    weak = sorted((one for one in findings.slices if one.weak and one.group != "class"), key=lambda one: one.accuracy)
    if weak:
        named = "; ".join(f"{one.group}: {one.name}, {percent(one.accuracy)}" for one in weak[:MOST_SLICES])
        sentences.append(f"Weaker than elsewhere, and not by chance: {named}.")
    return sentences + _under_change(findings)


def _under_change(findings: Findings) -> list[str]:
    robust = findings.robustness
    if robust is None:
        return []
    if robust.worst.accuracy >= robust.clean_accuracy:
        return [f"No corruption lowered its {percent(robust.clean_accuracy)} on {robust.rows:,} rows."]
    kinds = robust.corruptions
    return [
        f"Under corruption its {percent(robust.clean_accuracy)} ({robust.rows:,} rows) become "
        f"{percent(robust.mean_accuracy)} in the mean; worst is {_named(robust.worst)} with "
        f"{percent(robust.worst.accuracy)}, least harmful {kinds[-1]} with "
        f"{percent(float(np.mean([one.accuracy for one in robust.of(kinds[-1])])))}."
    ]


def _held_back(findings: Findings) -> list[str]:
    if not findings.errors:
        return ["Nothing that these rows could show: harder or more rows would be needed to see a limit."]
    sentences = [_generalization(findings)]
    if findings.doubtful:
        sentences.append(
            f"{findings.doubtful:,} of its {findings.errors:,} errors contradict the label as surely as it usually is "
            "when it is right: look at these labels first, they may be wrong."
        )
    missing = [one.label for one in findings.evaluation.classes if not one.support]
    if missing:
        sentences.append(f"Of {_listed(missing)} there is no row, so nothing is known of {_them(missing)}.")
    return sentences


def _generalization(findings: Findings) -> str:
    """How much of the error is made on trained rows too, and how much is the step to new ones."""
    seen, error = findings.seen, 1 - findings.evaluation.accuracy
    seen_error = 1 - seen.accuracy
    facts = (
        f"Of rows that it was trained on it gets {percent(seen_error)} wrong, of new ones {percent(error)}"
        f" ({seen.rows:,} training rows, not augmented)"
    )
    if seen.p_value > SIGNIFICANCE:
        if findings.errors < FEW_ERRORS:
            return f"{facts}: {findings.errors} errors are too few to say where they come from."
        return (
            f"{facts}: no difference that these rows could prove. What it errs on it has not learned: a larger model, "
            "longer training or better inputs would have to bring it, more of the same rows hardly would."
        )
    if error > MANY_TIMES * seen_error:
        return (
            f"{facts}: it has learned what it was shown, and loses {100 * (error - seen_error):.1f} points on what is "
            "new. More or more varied rows, or stronger regularization, would help before a larger model."
        )
    return (
        f"{facts}: {100 * seen_error:.1f} points are not learned at all, {100 * (error - seen_error):.1f} are lost on "
        "what is new."
    )


def worst_confusion(findings: Findings) -> tuple[str, str, int] | None:
    """Truth, answer and rows of the commonest mistake; None without one."""
    counts_CC = np.array(findings.evaluation.confusion)
    np.fill_diagonal(counts_CC, 0)
    if not counts_CC.any():
        return None
    truth, answer = divmod(int(counts_CC.argmax()), len(counts_CC))
    return findings.class_names[truth], findings.class_names[answer], int(counts_CC.max())


def _listed(names: Sequence[str], most: int = 5) -> str:
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more classes"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
