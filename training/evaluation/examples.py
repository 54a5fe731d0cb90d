"""Examples: the rows that cost a model most, to be looked at.

Shape suffixes: B rows, C classes or channels, H height, W width.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.encoding import Array, softmax
from training.evaluation.scores import check_logits

# A picture larger than this would make the page heavy; a smaller one is enlarged by the browser, pixel by pixel.
MAX_PICTURE_SIDE = 160


@dataclass(frozen=True)
class Example:
    """One row by its number in the split; `loss` is -log of what the model gave the truth.

    `doubtful` says that the label may be wrong: the model contradicts it and is as sure as it is, in the mean, of rows
    that really bear the label it answers (the rule of Northcutt et al., "Confident Learning", 2021).
    """

    row: int
    truth: str
    answer: str
    confidence: float
    truth_probability: float
    loss: float
    doubtful: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def doubtful_rows(logits_BC: Array, labels_B: Array) -> NDArray[np.bool_]:
    """Which rows' labels the model contradicts with confidence, see Example; bool [B]."""
    check_logits(logits_BC, labels_B)
    probabilities_BC = softmax(logits_BC)
    rows = np.arange(len(labels_B))
    support_C = np.bincount(labels_B, minlength=logits_BC.shape[1])
    sums_C = np.bincount(labels_B, weights=probabilities_BC[rows, labels_B], minlength=logits_BC.shape[1])
    # Nothing is known of how sure it is of a class that no row bears.
    usual_C = np.where(support_C > 0, sums_C / np.maximum(support_C, 1), np.inf)
    answers_B = logits_BC.argmax(axis=1)
    doubtful: NDArray[np.bool_] = (answers_B != labels_B) & (probabilities_BC[rows, answers_B] >= usual_C[answers_B])
    return doubtful


def worst_examples(logits_BC: Array, labels_B: Array, class_names: Sequence[str], most: int) -> tuple[Example, ...]:
    """The at most `most` wrong answers with the highest loss, the worst first."""
    from scipy.special import log_softmax

    doubtful_B = doubtful_rows(logits_BC, labels_B)
    rows = np.arange(len(labels_B))
    log_probabilities_BC = log_softmax(logits_BC.astype(np.float64), axis=1)
    loss_B = -log_probabilities_BC[rows, labels_B]
    answers_B = logits_BC.argmax(axis=1)
    order = [int(i) for i in np.argsort(-loss_B, kind="stable") if answers_B[i] != labels_B[i]][:most]
    return tuple(
        Example(
            row=i,
            truth=class_names[labels_B[i]],
            answer=class_names[answers_B[i]],
            confidence=float(np.exp(log_probabilities_BC[i].max())),
            truth_probability=float(np.exp(-loss_B[i])),
            loss=float(loss_B[i]),
            doubtful=bool(doubtful_B[i]),
        )
        for i in order
    )


def picture_png(image_CHW: NDArray[np.uint8]) -> bytes:
    """An encoded image (1 or 3 channels) as a PNG file, no side longer than MAX_PICTURE_SIDE."""
    grey = len(image_CHW) == 1
    image = Image.fromarray(image_CHW[0] if grey else np.ascontiguousarray(image_CHW.transpose(1, 2, 0)))
    image.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
