"""Challenge: a Release against the one that serves, on the same rows and on the same machine.

Shape suffixes: N rows, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimization.cascade.rows import Rows
from optimization.contender import Contender, Part, require_same_data, require_same_reading
from optimization.gate import (
    Check,
    Verdict,
    at_most,
    harm_as_promised,
    minimum_rows,
    non_inferior,
    not_slower,
    parity_kept,
    worth_it,
)
from optimization.measure.batches import as_served, parity_lengths
from optimization.measure.exclusive import WAIT_S, exclusive
from optimization.measure.host import Host, Load, LoadWatch, describe_host
from optimization.measure.latency import ItemTime, Speedup, measure_stream, stream_speedup
from optimization.measure.paired import (
    CONFIDENCE,
    ClassDelta,
    PairedDifference,
    class_deltas,
    flip_rate,
    paired_difference,
)
from optimization.measure.parity import parity
from optimization.pair import Pair
from optimization.runners.contract import Runner
from optimization.runners.open import open_runner
from optimization.variants import MAX_EXPORT_DIFFERENCE, QUANTIZATION_PARITY_ROWS
from training.encoding import Array
from training.evaluation.scores import check_logits, clopper_pearson, predict_in_batches
from training.task import Split, Task


@dataclass(frozen=True)
class Terms:
    """What a challenger is held to.

    It may lose `margin` of the champion's accuracy (the Task's, where None), differ from its answers on
    `max_flip_rate` of the rows, each of its converted models on `max_parent_flip_rate` from what it was converted
    from, and take up to `max_slowdown` times as long. Times are of `timed_rows` rows one at a time, in `rounds` rounds
    on `threads` threads; `wait_s` is how long to wait for the machine to be free.
    """

    margin: float | None = None
    max_flip_rate: float = 0.1
    max_parent_flip_rate: float = 0.02
    max_slowdown: float = 1.1
    confidence: float = CONFIDENCE
    timed_rows: int = 200
    rounds: int = 12
    threads: int = 1
    wait_s: float = WAIT_S

    def __post_init__(self) -> None:
        if self.margin is not None:
            minimum_rows(self.margin, self.confidence)  # raises on what is no margin, before anything is fetched
        if self.max_slowdown < 1:
            raise ValueError(f"max_slowdown is {self.max_slowdown}: 1 allows none, and less would ask for a speed-up")
        if self.timed_rows < 1 or self.rounds < 6:
            raise ValueError(
                f"{self.timed_rows} rows in {self.rounds} rounds: give a row or more, and at least 6 rounds, below "
                "which no interval of a speed-up is bounded"
            )


@dataclass(frozen=True)
class Standing:
    """How one contender did; `item_ms` is the median round's time of a row."""

    reference: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    deferral: float
    size_bytes: int
    item_ms: float
    item_spread_ms: tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """All that a challenge found, and the verdict that follows from it."""

    challenger: Standing
    champion: Standing
    difference: PairedDifference
    flip_rate: float
    classes: tuple[ClassDelta, ...]
    speedup: Speedup
    verdict: Verdict
    margin: float
    rows: int
    data_hash: str
    host: Host
    load: Load

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "classes": [delta.to_json() for delta in self.classes],
            "verdict": self.verdict.to_json(),
            "host": self.host.to_json(),
        }

    def metrics(self) -> dict[str, float]:
        return {
            "challenger/accuracy": self.challenger.accuracy,
            "champion/accuracy": self.champion.accuracy,
            "challenger/item_ms": self.challenger.item_ms,
            "champion/item_ms": self.champion.item_ms,
            "challenger/size_bytes": self.challenger.size_bytes,
            "champion/size_bytes": self.champion.size_bytes,
            "difference": self.difference.difference,
            "difference_lower": self.difference.lower,
            "difference_upper": self.difference.upper,
            "flip_rate": self.flip_rate,
            "speedup": self.speedup.ratio,
            "passed": float(self.verdict.passed),
        }


@dataclass(frozen=True)
class _Answers:
    """What one contender answers on the gate rows, and which of them its teacher answered."""

    predicted_N: NDArray[np.int64]
    correct_N: NDArray[np.bool_]
    deferral: float
    rows: Rows | None


def challenge(challenger: Contender, champion: Contender, task: Task, terms: Terms) -> Outcome:
    """Scores both on the gate split, times both in turn, and judges.

    Raises ValueError where they were not made from the task's data, BusyError where the machine is not free in time.
    """
    require_same_data((challenger, champion), task)
    require_same_reading((challenger, champion), task)
    gate, margin = task.splits["gate"], task.margin if terms.margin is None else terms.margin
    parts = {part.artifact.digest: part for contender in (challenger, champion) for part in contender.parts}
    runners = {digest: open_runner(part.artifact, terms.threads) for digest, part in parts.items()}
    logits = {digest: predict_in_batches(runner, gate.inputs) for digest, runner in runners.items()}
    new, old = (_answer(contender, logits, gate) for contender in (challenger, champion))
    difference = paired_difference(old.correct_N, new.correct_N, terms.confidence)
    flips = flip_rate(old.predicted_N, new.predicted_N)
    new_time, old_time, load = _time(challenger, champion, runners, task, terms)
    faster = stream_speedup(old_time, new_time, terms.confidence)
    checks = [
        non_inferior(old.correct_N, new.correct_N, margin, terms.confidence, "The challenger", "the champion"),
        at_most("flips", flips, terms.max_flip_rate, "{0:.2%} of the challenger's answers differ from the champion's"),
        *(_parity(part, runners[part.artifact.digest], task, terms) for part in challenger.parts if part.converted),
        *_harm(challenger, new, terms),
        worth_it(faster, difference, challenger.size_bytes, champion.size_bytes),
        not_slower(faster, terms.max_slowdown),
    ]
    return Outcome(
        challenger=_standing(challenger, new, new_time),
        champion=_standing(champion, old, old_time),
        difference=difference,
        flip_rate=flips,
        classes=class_deltas(gate.labels, old.predicted_N, new.predicted_N, task.encoding.labels),
        speedup=faster,
        verdict=Verdict(tuple(checks)),
        margin=margin,
        rows=len(gate),
        data_hash=task.data_hash,
        host=describe_host(terms.threads),
        load=load,
    )


def _answer(contender: Contender, logits: Mapping[str, Array], gate: Split) -> _Answers:
    teacher_NC = logits[contender.teacher.artifact.digest]
    check_logits(teacher_NC, gate.labels)
    predicted_N = teacher_NC.argmax(axis=1)
    if contender.release is None or contender.student is None:
        return _Answers(predicted_N, predicted_N == gate.labels, 1.0, None)
    student_NC = logits[contender.student.artifact.digest]
    rows = Rows.score(student_NC, teacher_NC, gate.labels, contender.release.temperature)
    accepted_N = rows.accepted(contender.release.threshold)
    predicted_N = np.where(accepted_N, student_NC.argmax(axis=1), predicted_N)
    return _Answers(predicted_N, predicted_N == gate.labels, float(1 - accepted_N.mean()), rows)


def _time(
    challenger: Contender, champion: Contender, runners: Mapping[str, Runner], task: Task, terms: Terms
) -> tuple[ItemTime, ItemTime, Load]:
    called = {"challenger": _callable(challenger, runners, task), "champion": _callable(champion, runners, task)}
    inputs = task.splits["gate"].inputs[: terms.timed_rows]
    with exclusive(f"timing {challenger.reference} against {champion.reference}", terms.wait_s):
        watch = LoadWatch()
        times = measure_stream(called, inputs, batch_size=1, rounds=terms.rounds)
        load = watch.read()
    return times["challenger"], times["champion"], load


def _callable(contender: Contender, runners: Mapping[str, Runner], task: Task) -> Callable[[Array], Array]:
    teacher: Callable[[Array], Array] = runners[contender.teacher.artifact.digest]
    answering = teacher
    if contender.release is not None and contender.student is not None:
        release = contender.release
        student = runners[contender.student.artifact.digest]
        answering = Pair(student, teacher, release.temperature, release.threshold)
    return lambda batch: answering(as_served(task.encoding, batch))


def _parity(part: Part, runner: Runner, task: Task, terms: Terms) -> Check:
    """Of a converted model with what it was converted from; what cannot be compared has not shown that it agrees."""
    manifest = part.artifact.manifest
    if part.parent is None:
        sentence = (
            f"{part.version.reference} ({manifest.variant}) was made from {str(manifest.parent)[:12]}, which is not in "
            "the registry: whether it answers alike cannot be shown"
        )
        return Check("parity", False, 1.0, terms.max_parent_flip_rate, sentence)
    inputs = task.splits["gate"].inputs[:QUANTIZATION_PARITY_ROWS]
    parent = open_runner(part.parent, terms.threads)
    found = parity(parent, runner, inputs, lengths=parity_lengths(task.encoding, inputs))
    what = f"{part.version.reference} ({manifest.variant}) and what it was made from ({part.parent.manifest.variant})"
    same_precision = manifest.precision == part.parent.manifest.precision
    return parity_kept(what, found, same_precision, terms.max_parent_flip_rate, MAX_EXPORT_DIFFERENCE)


def _harm(challenger: Contender, answers: _Answers, terms: Terms) -> tuple[Check, ...]:
    """What the challenger's own Release promises, where it promises something."""
    release = challenger.release
    if release is None or answers.rows is None or release.guarantee.kind == "none":
        return ()
    return (harm_as_promised(answers.rows, release.threshold, release.guarantee.max_harm, terms.confidence),)


def _standing(contender: Contender, answers: _Answers, time: ItemTime) -> Standing:
    total = len(answers.correct_N)
    right = int(answers.correct_N.sum())
    return Standing(
        reference=contender.reference,
        accuracy=right / total,
        accuracy_interval=clopper_pearson(right, total),
        deferral=answers.deferral,
        size_bytes=contender.size_bytes,
        item_ms=time.median_ms,
        item_spread_ms=time.spread_ms,
    )
