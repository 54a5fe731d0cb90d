"""Coverage: how right a model is on the rows that it is surest of, when it may leave the others to someone else.

That is what a cascade lives by: the student keeps what it is sure of, the teacher answers the rest. The area under
the risk-coverage curve (AURC) is of Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks" (2017).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array, softmax
from training.evaluation.plots import FIRST, MUTED, new_figure, plain
from training.evaluation.scores import check_logits, clopper_pearson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COVERAGES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Kept:
    """Accuracy on the surest `coverage` of the rows, its exact 95 % interval, and the least confidence among them."""

    coverage: float
    accuracy: float
    interval: tuple[float, float]
    least_confidence: float


@dataclass(frozen=True)
class RiskCoverage:
    """`aurc` is the mean error over all coverages; `aurc_random` what a confidence that tells nothing would give,
    `aurc_best` one that puts every error last. `curve` is (coverage, error) by rows.
    """

    kept: tuple[Kept, ...]
    aurc: float
    aurc_random: float
    aurc_best: float
    curve: tuple[NDArray[np.float64], NDArray[np.float64]]

    def at(self, coverage: float) -> Kept:
        return next(kept for kept in self.kept if kept.coverage == coverage)

    def to_json(self) -> dict[str, Any]:
        """Without the curve."""
        return {
            "aurc": self.aurc,
            "aurc_random": self.aurc_random,
            "aurc_best": self.aurc_best,
            "kept": [vars(kept) for kept in self.kept],
        }


def risk_coverage(logits_BC: Array, labels_B: Array) -> RiskCoverage:
    """Rows by falling confidence (largest softmax); of equally sure rows the earlier comes first."""
    check_logits(logits_BC, labels_B)
    rows = len(labels_B)
    confidence_B = softmax(logits_BC).max(axis=1)
    order_B = np.argsort(-confidence_B, kind="stable")
    wrong_B = (logits_BC.argmax(axis=1) != labels_B)[order_B].astype(np.float64)
    taken_B = np.arange(1, rows + 1)
    error_B = np.cumsum(wrong_B) / taken_B
    best_B = np.cumsum(np.sort(wrong_B)) / taken_B
    kept = []
    for coverage in COVERAGES:
        count = max(1, round(coverage * rows))
        right = count - int(wrong_B[:count].sum())
        kept.append(
            Kept(coverage, right / count, clopper_pearson(right, count), float(confidence_B[order_B[count - 1]]))
        )
    return RiskCoverage(
        kept=tuple(kept),
        aurc=float(error_B.mean()),
        aurc_random=float(wrong_B.mean()),
        aurc_best=float(best_B.mean()),
        curve=(taken_B / rows, error_B),
    )


def draw_coverage(found: RiskCoverage) -> "Figure":
    """Error among the surest rows by how many of them are kept."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(5.2, 4.0)
    axes = figure.subplots()
    coverage, error = found.curve
    # The first few rows swing between 0 and 1: the curve begins where a row weighs less than a hundredth.
    begin = min(len(error) - 1, 100)
    axes.plot(coverage[begin:], error[begin:], color=FIRST, linewidth=1.8, label="the model's own confidence")
    axes.plot([0, 1], [found.aurc_random] * 2, color=MUTED, linestyle="--", linewidth=1, label="rows kept at random")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(0.005, 1.25 * max(found.aurc_random, float(error[begin:].max()))))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    plain(axes, "Error among the rows that it is surest of", "rows kept", "of these wrong")
    return figure
