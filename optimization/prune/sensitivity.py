"""Sensitivity: what accuracy each group of channels costs when a share of it is taken out, one group at a time.

It is read off the val split, the one by which recipes are chosen: quantizer ranges and thresholds come from the
calibration split and would no longer be of fresh rows, and the gate split decides on promotion alone.

Shape suffixes: U units of a group.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from optimization.prune.accuracy import accuracy_of
from optimization.prune.allocation import best_units
from optimization.prune.criteria import Scores
from optimization.prune.cut import zeroed
from optimization.prune.group import Channels
from training.task import Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerSensitivity:
    """`accuracies[i]` is the whole model's with the share `shares[i]` of this layer's channels out."""

    layer: str
    width: int
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class Sensitivity:
    accuracy: float  # with nothing taken out
    rows: int
    shares: tuple[float, ...]
    layers: tuple[LayerSensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_sensitivity(
    module: nn.Module, channels: Channels, scores: Scores, split: Split, shares: Sequence[float] = (0.25, 0.5, 0.75)
) -> Sensitivity:
    """`scores` say which channels go first; a group without a score is left out. `module` is not changed."""
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares are {list(shares)}: each is a share of a layer's channels, 0 < share < 1")
    layers = []
    for group in channels.groups:
        if group.name not in scores:
            continue
        found = []
        for share in shares:
            kept_U = best_units(scores[group.name], max(1, round(group.units * (1 - share))))
            found.append(accuracy_of(module, split, zeroed(module, (group,), {group.name: kept_U})))
        layers.append(LayerSensitivity(group.name, group.units, tuple(found)))
    return Sensitivity(accuracy_of(module, split), len(split), tuple(shares), tuple(layers))


def sensitivity_plot(sensitivity: Sensitivity) -> "Figure":
    """One line a layer, in the model's order; a dot for each share that was taken out."""
    from matplotlib.ticker import PercentFormatter

    from training.evaluation.plots import FIRST, MUTED, SECOND, new_figure, plain

    layers = sensitivity.layers
    figure = new_figure(8.4, 1.6 + 0.24 * len(layers))
    axes = figure.subplots()
    places = range(len(layers))
    lowest = [min(layer.accuracies) for layer in layers]
    axes.hlines(places, lowest, sensitivity.accuracy, color=MUTED, linewidth=0.8, alpha=0.5)
    for i, share in enumerate(sensitivity.shares):
        part = (i + 1) / len(sensitivity.shares)
        axes.scatter(
            [layer.accuracies[i] for layer in layers], places, s=34, color=SECOND, alpha=0.25 + 0.75 * part,
            label=f"{share:.0%} out", zorder=3,
        )  # fmt: skip
    axes.axvline(sensitivity.accuracy, color=FIRST, linewidth=1.2, label=f"nothing out: {sensitivity.accuracy:.2%}")
    axes.set_yticks(places, [f"{layer.layer} ({layer.width})" for layer in layers], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    plain(axes, "Which layers can lose channels", f"accuracy on {sensitivity.rows:,} rows of the val split", "")
    figure.legend(loc="outside right upper", frameon=False)
    return figure
