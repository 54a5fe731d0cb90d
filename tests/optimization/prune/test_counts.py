"""Parameters and multiply-accumulates against two independent counts: by hand, and by Torch-Pruning's counter."""

import numpy as np
import pytest
import torch
from torch import nn

from optimization.prune.counts import count
from optimization.prune.cut import cut
from optimization.prune.dependencies import find_channels
from optimization.prune.rebuild import rebuilt
from tests.optimization.prune.networks import NETWORKS, network, rows
from training.encoding import ImageEncoding
from training.models.architecture import Architecture, build

CIFAR = ImageEncoding(height=32, width=32, channels=3, labels=tuple("abcdefghij"))
IMAGE = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)


def _by_hand(inner: list[int], channels: int = 3, classes: int = 10, side: int = 32) -> tuple[int, int]:
    """Parameters and MACs of a residual network of He et al. 2015, section 4.2, with `inner` channels in each block."""
    blocks = len(inner) // 3
    parameters, macs = channels * 16 * 9 + 2 * 16, channels * 16 * 9 * side**2
    width = 16
    for i, middle in enumerate(inner):
        outputs, pixels = 16 << (i // blocks), (side >> (i // blocks)) ** 2
        parameters += 9 * width * middle + 2 * middle + 9 * middle * outputs + 2 * outputs
        macs += 9 * width * middle * pixels + 9 * middle * outputs * pixels
        width = outputs
    return parameters + width * classes + classes, macs + width * classes


@pytest.mark.parametrize(("depth", "parameters", "macs"), [(20, 269_722, 40_551_040), (56, 853_018, 125_485_696)])
def test_whole_networks_count_as_they_are_published(depth: int, parameters: int, macs: int) -> None:
    found = count(build(Architecture(f"resnet{depth}"), CIFAR), IMAGE)
    blocks = (depth - 2) // 6
    assert (found.parameters, found.macs) == _by_hand([16] * blocks + [32] * blocks + [64] * blocks)
    assert (found.parameters, found.macs) == (parameters, macs)


def test_a_pruned_network_counts_as_by_hand() -> None:
    architecture = Architecture("resnet20")
    module = build(architecture, CIFAR)
    channels = find_channels(module, torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    inner = [8, 16, 3, 24, 32, 1, 40, 8, 56]
    kept = {group.name: np.arange(group.units) < width for group, width in zip(channels.groups, inner, strict=True)}
    found = count(rebuilt(architecture, CIFAR, cut(module, channels.groups, kept)), IMAGE)
    assert (found.parameters, found.macs) == _by_hand(inner)


@pytest.mark.parametrize("name", ["convnet", "resnet", "resnet18", "mobilenet_v2", "flattened"])
def test_a_pruned_network_counts_as_by_another_counter(name: str) -> None:
    import torch_pruning

    architecture, encoding = NETWORKS[name]
    module, batch = network(name), rows(name)
    channels = find_channels(module, batch)
    kept = {group.name: np.arange(group.units) % 3 != 0 for group in channels.groups}
    pruned = rebuilt(architecture, encoding, cut(module, channels.groups, kept))
    found = count(pruned, batch[:1])
    _, parameters, by_layer, _ = torch_pruning.utils.count_ops_and_params(pruned, batch[:1], layer_wise=True)
    assert found.parameters == parameters
    # It counts a bias as one operation for each value, and norms and activations too, which are no products.
    assert found.macs == sum(by_layer[layer] - _bias(layer) for layer in by_layer if _multiplies(layer))
    assert found.macs < count(module, batch[:1]).macs


def _multiplies(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def _bias(layer: nn.Module) -> int:
    """Operations of the bias; a convolution with one is only in "flattened", where it makes 4x4 pixels."""
    if layer.bias is None:
        return 0
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels * 16


def test_counting_leaves_a_module_in_the_mode_it_was_in() -> None:
    module = network("convnet").train()
    count(module, rows("convnet")[:1])
    assert module.training
