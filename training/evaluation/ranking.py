"""Ranking: how well each class's probability tells its rows from all others, whatever the threshold (ROC and PR).

Shape suffixes: B rows, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array, softmax
from training.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, macro_auc_of
from training.evaluation.plots import FIRST, MUTED, SECOND, WORST, new_figure, plain, short
from training.evaluation.scores import check_logits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points kept of a curve: more than a screen can show apart.
CURVE_POINTS = 200
# Row-class pairs that a second resamples; below the least number of resamples no interval is given.
BUDGET = 60_000_000
LEAST_RESAMPLES = 100

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class ClassRanking:
    """One class against the rest. `roc` is (false, true positive rate), `pr` (recall, precision), x ascending."""

    label: str
    auc: float
    average_precision: float
    support: int
    roc: Curve
    pr: Curve


@dataclass(frozen=True)
class Ranking:
    """Macro means over the classes for which the curves are defined.

    `undefined` names those that have no row in the split, or all of them: for these no curve exists. The means are
    None where that holds of every class; `auc_interval` too where rows times classes are too many to resample.
    """

    classes: tuple[ClassRanking, ...]
    undefined: tuple[str, ...]
    macro_auc: float | None
    macro_average_precision: float | None
    auc_interval: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Without the curves."""
        return {
            "macro_auc": self.macro_auc,
            "macro_auc_interval": None if self.auc_interval is None else vars(self.auc_interval),
            "macro_average_precision": self.macro_average_precision,
            "undefined": list(self.undefined),
            "classes": [
                {"label": one.label, "auc": one.auc, "average_precision": one.average_precision} for one in self.classes
            ],
        }


def rank(logits_BC: Array, labels_B: Array, class_names: Sequence[str]) -> Ranking:
    """One-vs-rest ROC and PR of each class's softmax; raises ValueError as `check_logits` does."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    check_logits(logits_BC, labels_B)
    probabilities_BC = softmax(logits_BC)
    support_C = np.bincount(labels_B, minlength=len(class_names))
    defined = [int(c) for c in np.flatnonzero((support_C > 0) & (support_C < len(labels_B)))]
    classes = []
    for c in defined:
        own_B, score_B = labels_B == c, probabilities_BC[:, c]
        false_rate, true_rate, _ = roc_curve(own_B, score_B)
        precision, recall, _ = precision_recall_curve(own_B, score_B)
        classes.append(
            ClassRanking(
                label=class_names[c],
                auc=float(roc_auc_score(own_B, score_B)),
                average_precision=float(average_precision_score(own_B, score_B)),
                support=int(support_C[c]),
                roc=_thin(false_rate, true_rate),
                pr=_thin(recall[::-1], precision[::-1]),
            )
        )
    resamples = min(RESAMPLES, BUDGET // max(1, len(labels_B) * len(defined)))
    interval = None
    if len(defined) and resamples >= LEAST_RESAMPLES:
        interval = bootstrap(macro_auc_of(probabilities_BC, labels_B, defined), len(labels_B), resamples)
    return Ranking(
        classes=tuple(classes),
        undefined=tuple(name for c, name in enumerate(class_names) if c not in defined),
        macro_auc=float(np.mean([one.auc for one in classes])) if classes else None,
        macro_average_precision=float(np.mean([one.average_precision for one in classes])) if classes else None,
        auc_interval=interval,
    )


def draw_roc(ranking: Ranking) -> "Figure":
    """True against false positives, the false ones on a root scale, which opens the corner where good models lie."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(5.2, 4.5)
    axes = figure.subplots()
    curves = [one.roc for one in ranking.classes]
    _draw_classes(axes, curves, ranking, [one.auc for one in ranking.classes], "AUC")
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set_xticks((0, 0.01, 0.05, 0.2, 0.5, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, 1)
    plain(axes, f"ROC, mean AUC {ranking.macro_auc:.4f}", "false positives (root scale)", "true positives (recall)")
    return figure


def draw_pr(ranking: Ranking) -> "Figure":
    """Precision against recall."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(5.2, 4.5)
    axes = figure.subplots()
    curves = [one.pr for one in ranking.classes]
    _draw_classes(axes, curves, ranking, [one.average_precision for one in ranking.classes], "AP")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, 1.005)
    plain(axes, f"Precision by recall, mean AP {ranking.macro_average_precision:.4f}", "recall", "precision")
    return figure


def _draw_classes(axes: "Axes", curves: Sequence[Curve], ranking: Ranking, scores: Sequence[float], name: str) -> None:
    """The three worst in colour with their names, the others in grey."""
    worst = sorted(range(len(scores)), key=lambda i: scores[i])[:3]
    for i, (x, y) in enumerate(curves):
        if i not in worst:
            axes.plot(x, y, color=MUTED, linewidth=0.9, alpha=0.55)
    for colour, i in zip((WORST, SECOND, FIRST), worst, strict=False):
        label = f"{short(ranking.classes[i].label)}  {name} {scores[i]:.3f}"
        axes.plot(*curves[i], color=colour, linewidth=1.8, label=label)
    axes.legend(frameon=False, loc="lower right" if name == "AUC" else "lower left", fontsize=9)
    axes.set_ylim(max(0.0, min(float(np.min(y[1:-1], initial=1.0)) for _, y in curves) - 0.02), 1.01)
    if name == "AUC":
        axes.set_ylim(0, 1.01)


def _root(x: Array) -> Array:
    return np.sqrt(np.maximum(x, 0))


def _thin(x: Array, y: Array) -> Curve:
    """At most CURVE_POINTS of a curve, its ends among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
    return x[kept].astype(np.float64), y[kept].astype(np.float64)
