"""Evaluate: what logits are worth against labels - accuracy, per-class scores and calibration.

Shape suffixes: B rows, C classes, K bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array, softmax

RELIABILITY_BINS = 15
TOP_K = (2, 3, 5)


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; precision, recall and F1 are 0 where their denominator is 0.

    `recall_interval` is exact, at 95 %; without a row of the class it is (0, 1).
    """

    label: str
    precision: float
    recall: float
    recall_interval: tuple[float, float]
    f1: float
    support: int


@dataclass(frozen=True)
class TopK:
    """How often the true class is among the `k` most probable ones, with its exact 95 % interval."""

    k: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one set of rows.

    `interval` is the exact (Clopper-Pearson) 95 % interval of accuracy; `confusion[i][j]` counts the
    rows of class i that were answered j; macro scores weigh every class alike. `top_k` holds no k that every
    answer would satisfy. `brier` is the squared distance of the probabilities to the truth, summed over the
    classes (Brier 1950: 0 at best, 2 at worst).
    """

    rows: int
    accuracy: float
    interval: tuple[float, float]
    top_k: tuple[TopK, ...]
    macro_precision: float
    macro_recall: float
    macro_f1: float
    ece: float
    log_loss: float
    brier: float
    mean_confidence: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def metrics(self) -> dict[str, float]:
        """The scalar scores, flat, by the names under which they are logged."""
        return {
            "rows": float(self.rows),
            "accuracy": self.accuracy,
            "accuracy_low": self.interval[0],
            "accuracy_high": self.interval[1],
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
            "ece": self.ece,
            "log_loss": self.log_loss,
            "brier": self.brier,
            "mean_confidence": self.mean_confidence,
            **{f"top{top.k}_accuracy": top.accuracy for top in self.top_k},
        }


@dataclass(frozen=True)
class Reliability:
    """Rows binned by confidence into K equal widths of (0, 1]; means are NaN in an empty bin.

    `ece` is the expected calibration error of Guo et al., "On Calibration of Modern Neural Networks"
    (2017): the gap between confidence and accuracy in each bin, weighted by the bin's rows.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    ece: float


def predict_in_batches(predict: Callable[[Array], Array], inputs: Array, batch_size: int = 256) -> Array:
    """Inputs [B, ...] -> logits [B, C], at most `batch_size` rows a call."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: a batch holds at least one row")
    if not len(inputs):
        raise ValueError("there are no inputs to predict")
    batches = [predict(inputs[start : start + batch_size]) for start in range(0, len(inputs), batch_size)]
    logits_BC: Array = np.concatenate(batches)
    if len(logits_BC) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs gave {len(logits_BC)} rows of logits: predict must answer every row")
    return logits_BC


def evaluate(logits_BC: Array, labels_B: Array, class_names: Sequence[str]) -> Evaluation:
    """Scores `logits_BC` (any float) against integer `labels_B` in 0..C-1.

    Raises ValueError on shapes that do not fit, labels out of range, or logits that are not finite.
    """
    from scipy.special import log_softmax
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    check_logits(logits_BC, labels_B)
    classes = logits_BC.shape[1]
    if len(class_names) != classes:
        raise ValueError(f"{classes} logits a row but {len(class_names)} class names: give one name a logit")
    predicted_B = logits_BC.argmax(axis=1)
    present = np.arange(classes)
    precision_C, recall_C, f1_C, support_C = precision_recall_fscore_support(
        labels_B, predicted_B, labels=present, zero_division=0.0
    )
    confusion_CC = confusion_matrix(labels_B, predicted_B, labels=present)
    rows = len(labels_B)
    correct = int((predicted_B == labels_B).sum())
    log_probabilities_BC = log_softmax(logits_BC.astype(np.float64), axis=1)
    distance_BC = np.exp(log_probabilities_BC)
    mean_confidence = float(distance_BC.max(axis=1).mean())
    distance_BC[np.arange(rows), labels_B] -= 1
    return Evaluation(
        rows=rows,
        accuracy=correct / rows,
        interval=clopper_pearson(correct, rows),
        top_k=top_k_accuracy(logits_BC, labels_B),
        macro_precision=float(precision_C.mean()),
        macro_recall=float(recall_C.mean()),
        macro_f1=float(f1_C.mean()),
        ece=reliability_bins(logits_BC, labels_B).ece,
        log_loss=float(-log_probabilities_BC[np.arange(rows), labels_B].mean()),
        brier=float((distance_BC**2).sum(axis=1).mean()),
        mean_confidence=mean_confidence,
        classes=tuple(
            ClassScore(
                label=name,
                precision=float(precision_C[i]),
                recall=float(recall_C[i]),
                recall_interval=clopper_pearson(int(confusion_CC[i, i]), int(support_C[i])),
                f1=float(f1_C[i]),
                support=int(support_C[i]),
            )
            for i, name in enumerate(class_names)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion_CC),
    )


def top_k_accuracy(logits_BC: Array, labels_B: Array) -> tuple[TopK, ...]:
    """For each k of TOP_K below the number of classes; of equal logits the lower class counts as the more probable."""
    rows, classes = logits_BC.shape
    own_B1 = logits_BC[np.arange(rows), labels_B][:, None]
    before_BC = (logits_BC > own_B1) | ((logits_BC == own_B1) & (np.arange(classes) < labels_B[:, None]))
    rank_B = before_BC.sum(axis=1)
    found = [(k, int((rank_B < k).sum())) for k in TOP_K if k < classes]
    return tuple(TopK(k, hits / rows, clopper_pearson(hits, rows)) for k, hits in found)


def reliability_bins(logits_BC: Array, labels_B: Array, bins: int = RELIABILITY_BINS) -> Reliability:
    """How often the model is right at each level of its confidence (its largest softmax)."""
    check_logits(logits_BC, labels_B)
    confidence_B = softmax(logits_BC).max(axis=1)
    correct_B = logits_BC.argmax(axis=1) == labels_B
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Bins are open below and closed above, so that certainty itself falls into the last one.
    bin_B = np.clip(np.searchsorted(edges, confidence_B, side="left") - 1, 0, bins - 1)
    counts_K = np.bincount(bin_B, minlength=bins)
    held = counts_K > 0
    confidence_K = np.full(bins, np.nan)
    accuracy_K = np.full(bins, np.nan)
    confidence_K[held] = np.bincount(bin_B, weights=confidence_B, minlength=bins)[held] / counts_K[held]
    accuracy_K[held] = np.bincount(bin_B, weights=correct_B, minlength=bins)[held] / counts_K[held]
    gap_K = np.abs(confidence_K - accuracy_K)[held]
    return Reliability(edges, counts_K, confidence_K, accuracy_K, float((counts_K[held] * gap_K).sum() / len(labels_B)))


def clopper_pearson(successes: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a proportion (Clopper and Pearson, 1934); (0, 1) without rows."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = beta.ppf(tail, successes, rows - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, rows - successes) if successes < rows else 1.0
    return float(low), float(high)


def check_logits(logits_BC: Array, labels_B: Array) -> None:
    """Raises ValueError unless the logits are finite [B, C] and the labels are integers [B] in 0..C-1."""
    if logits_BC.ndim != 2 or labels_B.shape != logits_BC.shape[:1] or not logits_BC.size:
        raise ValueError(
            f"logits {logits_BC.shape} and labels {labels_B.shape} do not fit: want [B, C] and [B], B and C above 0"
        )
    bad = int((~np.isfinite(logits_BC)).any(axis=1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(logits_BC)} rows of logits hold NaN or infinity: the model is broken")
    if not np.issubdtype(labels_B.dtype, np.integer):
        raise ValueError(f"labels are {labels_B.dtype}: class numbers must be integers")
    if labels_B.min() < 0 or labels_B.max() >= logits_BC.shape[1]:
        raise ValueError(
            f"labels run from {labels_B.min()} to {labels_B.max()}; with {logits_BC.shape[1]} logits a row "
            f"they must lie in 0..{logits_BC.shape[1] - 1}"
        )
