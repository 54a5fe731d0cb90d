import numpy as np
import pytest
import torch

from optimization.prune.accuracy import accuracy_of
from optimization.prune.allocation import best_units
from optimization.prune.criteria import unit_scores
from optimization.prune.cut import cut
from optimization.prune.dependencies import find_channels
from optimization.prune.rebuild import rebuilt
from optimization.prune.sensitivity import LayerSensitivity, Sensitivity, measure_sensitivity, sensitivity_plot
from optimization.prune.settings import Prune
from tests.optimization.prune.networks import NETWORKS, network, rows
from training.task import Split


def _split(name: str) -> Split:
    """Rows whose labels are what the network answers: whole, it is right on all."""
    batch = rows(name, 100)
    with torch.no_grad():
        return Split(batch.numpy(), network(name)(batch).argmax(dim=1).numpy())


def test_each_layer_alone_is_as_accurate_as_the_model_pruned_there() -> None:
    module, split = network("resnet20"), _split("resnet20")
    channels = find_channels(module, rows("resnet20"))
    scores = unit_scores(module, channels.groups, Prune(amount=0.5, criterion="l1"), split)
    found = measure_sensitivity(module, channels, scores, split, (0.5, 0.75))
    assert found.accuracy == 1.0
    assert found.rows == 100
    assert [(layer.layer, layer.width) for layer in found.layers] == list(channels.widths.items())
    for layer in found.layers[::4]:
        for share, accuracy in zip((0.5, 0.75), layer.accuracies, strict=True):
            kept = {layer.layer: best_units(scores[layer.layer], round(layer.width * (1 - share)))}
            pruned = rebuilt(*NETWORKS["resnet20"], cut(module, channels.groups, kept))
            assert accuracy_of(pruned, split) == pytest.approx(accuracy, abs=0.011)  # a row may lie on the border
    assert min(layer.accuracies[1] for layer in found.layers) < 1.0


def test_a_group_without_a_score_is_left_out() -> None:
    module, split = network("joined"), _split("joined")
    channels = find_channels(module, rows("joined"))
    scores = unit_scores(module, channels.groups, Prune(amount=0.5, criterion="bn_scale"), split)
    assert {layer.layer for layer in measure_sensitivity(module, channels, scores, split).layers} == {"left", "right"}


@pytest.mark.parametrize("shares", [(), (0.0,), (0.5, 1.0)])
def test_shares_of_nothing_or_all_are_refused(shares: tuple[float, ...]) -> None:
    module, split = network("bag"), _split("bag")
    channels = find_channels(module, rows("bag"))
    with pytest.raises(ValueError, match="each is a share of a layer's channels"):
        measure_sensitivity(module, channels, {"body.1": np.ones(16)}, split, shares)


def test_the_plot_shows_every_layer_in_its_order_with_a_dot_a_share() -> None:
    layers = (LayerSensitivity("stem", 16, (0.9, 0.7)), LayerSensitivity("block", 32, (0.95, 0.94)))
    figure = sensitivity_plot(Sensitivity(0.96, 500, (0.25, 0.5), layers))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stem (16)", "block (32)"]
    dots = [np.asarray(series.get_offsets()).tolist() for series in axes.collections if len(series.get_offsets()) == 2]
    assert [[0.9, 0], [0.95, 1]] in dots and [[0.7, 0], [0.94, 1]] in dots
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["25% out", "50% out", "nothing out: 96.00%"]
    assert axes.yaxis_inverted()
