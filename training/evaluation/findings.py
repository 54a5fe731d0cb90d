"""Findings: all that an evaluation finds out of one model on one split of its Task."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array
from training.evaluation.bootstrap import Interval, bootstrap, macro_f1_of, mean_of
from training.evaluation.confidence import Confidence, check_confidence
from training.evaluation.coverage import RiskCoverage, risk_coverage
from training.evaluation.examples import Example, doubtful_rows, worst_examples
from training.evaluation.ranking import Ranking, rank
from training.evaluation.robustness import Robustness, measure_robustness
from training.evaluation.scores import Evaluation, clopper_pearson, evaluate, predict_in_batches
from training.evaluation.slices import (
    Slicer,
    SliceScore,
    built_in_slices,
    confidence_bands,
    own_slices,
    score_slices,
)
from training.evaluation.temperature import fit_temperature
from training.task import Split, SplitName, Task

EXAMPLES = 24
# Rows of the train split that are answered again, and rows that fit the temperature: enough to tell a point apart.
COMPARED_ROWS = 2000
# A metric a class, up to as many classes as a list of metrics can be read with; evaluation.json has them all.
MOST_LOGGED_CLASSES = 40

Predict = Callable[[Array], Array]


@dataclass(frozen=True)
class Seen:
    """Accuracy on rows of the train split, as they are (not augmented), with its exact 95 % interval.

    `p_value` is of Fisher's exact test that it is no better on them than on the rows that are evaluated.
    """

    rows: int
    accuracy: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Findings:
    """`commonest` is the share of the split's commonest class: what answering it always would score.

    `doubtful` counts the wrong answers that may be wrong labels. `robustness` is None where it was not measured.
    `logits` [B, C] and `labels` [B] are what all was found in.
    """

    split: SplitName
    class_names: tuple[str, ...]
    evaluation: Evaluation
    macro_f1_interval: Interval
    log_loss_interval: Interval
    commonest: float
    confidence: Confidence
    ranking: Ranking
    coverage: RiskCoverage
    slices: tuple[SliceScore, ...]
    examples: tuple[Example, ...]
    doubtful: int
    seen: Seen
    robustness: Robustness | None
    logits: Array
    labels: NDArray[np.int64]

    @property
    def errors(self) -> int:
        return self.evaluation.rows - sum(self.evaluation.confusion[i][i] for i in range(len(self.class_names)))

    def metrics(self) -> dict[str, float]:
        """The figures that are logged, flat; what is not defined is left out."""
        found: dict[str, float | None] = {
            **self.evaluation.metrics(),
            "macro_f1_low": self.macro_f1_interval.low,
            "macro_f1_high": self.macro_f1_interval.high,
            "calibration_gap": self.confidence.gap,
            "ece_by_chance": self.confidence.ece_by_chance,
            "ece_scaled": self.confidence.ece_scaled,
            "macro_auc": self.ranking.macro_auc,
            "macro_average_precision": self.ranking.macro_average_precision,
            "aurc": self.coverage.aurc,
            "doubtful_labels": float(self.doubtful),
            "train_rows_accuracy": self.seen.accuracy,
        }
        if len(self.class_names) <= MOST_LOGGED_CLASSES:
            held = [one for one in self.evaluation.classes if one.support]
            found |= {f"recall/{_metric_name(one.label)}": one.recall for one in held}
        if self.robustness is not None:
            found["corrupted_accuracy"] = self.robustness.mean_accuracy
            for one in self.robustness.results:
                found[f"corrupted/{_metric_name(one.corruption)}_{one.severity}"] = one.accuracy
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """Every figure, without logits and curves."""
        return {
            "split": self.split,
            "evaluation": self.evaluation.to_json(),
            "macro_f1_interval": vars(self.macro_f1_interval),
            "log_loss_interval": vars(self.log_loss_interval),
            "commonest": self.commonest,
            "confidence": self.confidence.to_json(),
            "ranking": self.ranking.to_json(),
            "coverage": self.coverage.to_json(),
            "slices": [one.to_json() for one in self.slices],
            "examples": [one.to_json() for one in self.examples],
            "doubtful": self.doubtful,
            "train_rows": vars(self.seen),
            "robustness": None if self.robustness is None else self.robustness.to_json(),
        }


def examine(
    predict: Predict,
    task: Task,
    split_name: SplitName,
    *,
    slicer: Slicer | None = None,
    corruption_rows: int = 0,
    track: Callable[[Iterable[tuple[str, int]]], Iterable[tuple[str, int]]] = iter,
) -> Findings:
    """Every figure of `predict` (inputs [B, ...] -> logits [B, C]) on one split.

    The temperature is fitted on calibration rows, never on those that it is judged by. Corruptions are measured on
    `corruption_rows` rows; 0 leaves them out, and then it costs little more than one pass over the split.
    Raises ValueError where logits are not finite or anything does not fit.
    """
    split, names = task.splits[split_name], task.encoding.labels
    logits_BC = predict_in_batches(predict, split.inputs)
    evaluation = evaluate(logits_BC, split.labels, names)
    answers_B = logits_BC.argmax(axis=1)
    groups: dict[str, Any] = dict(built_in_slices(task.encoding, split.inputs, split.labels))
    groups["confidence"] = confidence_bands(logits_BC)
    if slicer is not None:
        groups["own"] = own_slices(slicer, split.inputs, split.labels)
    return Findings(
        split=split_name,
        class_names=tuple(names),
        evaluation=evaluation,
        macro_f1_interval=bootstrap(macro_f1_of(answers_B, split.labels, len(names)), len(split)),
        log_loss_interval=bootstrap(mean_of(_losses(logits_BC, split.labels)), len(split)),
        commonest=float(np.bincount(split.labels).max() / len(split)),
        confidence=check_confidence(logits_BC, split.labels, _temperature(predict, task, split_name)),
        ranking=rank(logits_BC, split.labels, names),
        coverage=risk_coverage(logits_BC, split.labels),
        slices=score_slices(answers_B == split.labels, groups),
        examples=worst_examples(logits_BC, split.labels, names, EXAMPLES),
        doubtful=int(doubtful_rows(logits_BC, split.labels).sum()),
        seen=_seen(predict, task.splits["train"], answers_B == split.labels),
        robustness=measure_robustness(predict, task, split, corruption_rows, track=track) if corruption_rows else None,
        logits=logits_BC,
        labels=split.labels,
    )


def _temperature(predict: Predict, task: Task, split_name: SplitName) -> float | None:
    if split_name == "calibration":
        return None
    fitting = _some(task.splits["calibration"])
    return fit_temperature(predict_in_batches(predict, fitting.inputs), fitting.labels)


def _seen(predict: Predict, train: Split, correct_B: NDArray[np.bool_]) -> Seen:
    from scipy.stats import hypergeom

    some = _some(train)
    right = int((predict_in_batches(predict, some.inputs).argmax(axis=1) == some.labels).sum())
    new, new_right = len(correct_B), int(correct_B.sum())
    p_value = hypergeom.cdf(new_right, len(some) + new, right + new_right, new)
    return Seen(len(some), right / len(some), clopper_pearson(right, len(some)), float(p_value))


def _some(split: Split) -> Split:
    """At most COMPARED_ROWS rows, always the same ones."""
    if len(split) <= COMPARED_ROWS:
        return split
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:COMPARED_ROWS])
    return Split(split.inputs[chosen], split.labels[chosen])


def _losses(logits_BC: Array, labels_B: Array) -> Array:
    from scipy.special import log_softmax

    losses_B: Array = -log_softmax(logits_BC.astype(np.float64), axis=1)[np.arange(len(labels_B)), labels_B]
    return losses_B


def _metric_name(label: str) -> str:
    """MLflow takes letters, digits and a few signs in a metric's name."""
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-. ") else "_" for sign in label)
