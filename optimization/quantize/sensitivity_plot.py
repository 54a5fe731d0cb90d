"""The sensitivities of a network's layers as a matplotlib Figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimization.quantize.sensitivity import Layer, Metric, Probe, Sensitivity
from training.evaluation.plots import FIRST, MUTED, SECOND, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"kl": "divergence of the answers, nats", "mse": "mean squared error of the logits"}
TITLES = {"only": "Error with this layer alone in INT8", "all_but": "Error with all layers but this one in INT8"}


def sensitivity_plot(
    found: Sequence[Sensitivity], kept: Sequence[Layer], all_int8_error: float, metric: Metric, probe: Probe
) -> "Figure":
    """A bar a layer in the order in which they run, those kept in float in another colour, beside the error of all."""
    if not found:
        raise ValueError("there are no layers to draw")
    figure = new_figure(8.4, max(3.0, 0.9 + 0.19 * len(found)))
    axes = figure.subplots()
    names = {layer.name for layer in kept}
    places = range(len(found))
    colours = [SECOND if one.layer.name in names else FIRST for one in found]
    axes.barh(places, [one.error for one in found], color=colours, height=0.75)
    axes.axvline(all_int8_error, color=MUTED, linestyle="--", linewidth=1.2)
    axes.set_yticks(places, [one.layer.weight.removesuffix(".weight") for one in found], fontsize=7)
    axes.invert_yaxis()
    for label, colour in ((f"{len(found) - len(names)} in INT8", FIRST), (f"{len(names)} kept in float", SECOND)):
        axes.barh([0], [0], color=colour, label=label)
    axes.plot([], [], color=MUTED, linestyle="--", linewidth=1.2, label="all in INT8")
    figure.legend(loc="outside right upper", frameon=False)
    plain(axes, TITLES[probe], AXES[metric], "")
    return figure
