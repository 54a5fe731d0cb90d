"""Exactness: a model without channels answers as the whole one with these channels at zero."""

import copy

import numpy as np
import pytest
import torch

from optimization.prune.cut import answers_when_zeroed, cut, zeroed
from optimization.prune.dependencies import find_channels
from optimization.prune.group import Channels, Kept
from optimization.prune.rebuild import rebuilt, smaller
from tests.optimization.prune.networks import NETWORKS, network, rows
from training.models.sizes import sizes_of

# Without rounding of its own, a channel changes nothing but the order of a sum.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}


def _some(channels: Channels, seed: int) -> Kept:
    """About half of every group, at least one unit."""
    random = np.random.default_rng(seed)
    kept = {group.name: random.random(group.units) < 0.5 for group in channels.groups}
    for stays in kept.values():
        stays[random.integers(len(stays))] = True
    return kept


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_model_answers_as_the_whole_one_with_these_channels_at_zero(name: str) -> None:
    architecture, encoding = NETWORKS[name]
    module, batch = network(name), rows(name)
    channels = find_channels(module, batch)
    for seed in range(3):
        kept = _some(channels, seed)
        made = cut(module, channels.groups, kept)
        with torch.no_grad():
            found, whole = rebuilt(architecture, encoding, made)(batch), module(batch)
        torch.testing.assert_close(found, answers_when_zeroed(module, channels.groups, kept, batch), **ROUNDING)
        assert not torch.allclose(found, whole, **ROUNDING), "half of the channels must matter, or nothing was shown"


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "joined"])
def test_what_was_cut_is_cut_again_as_exactly(name: str) -> None:
    architecture, encoding = NETWORKS[name]
    module, batch = network(name), rows(name)
    for seed in range(2):
        channels = find_channels(module, batch)
        kept = _some(channels, seed)
        made = cut(module, channels.groups, kept)
        wanted = answers_when_zeroed(module, channels.groups, kept, batch)
        architecture, module = smaller(architecture, made), rebuilt(architecture, encoding, made)
        with torch.no_grad():
            torch.testing.assert_close(module(batch), wanted, **ROUNDING)


def test_sizes_are_of_the_layers_that_changed_alone() -> None:
    module = network("resnet20")
    channels = find_channels(module, rows("resnet20"))
    kept = {"layer2.1.conv1": np.arange(32) < 8}
    made = cut(module, channels.groups, kept)
    assert made.sizes == {"layer2.1.conv1": (32, 8), "layer2.1.bn1": (8, 8), "layer2.1.conv2": (8, 32)}
    rebuilt_module = rebuilt(NETWORKS["resnet20"][0], NETWORKS["resnet20"][1], made)
    assert sizes_of(rebuilt_module) == {**sizes_of(module), **made.sizes}


def test_kept_weights_are_the_ones_they_were() -> None:
    module = network("resnet20")
    channels = find_channels(module, rows("resnet20"))
    stays = np.arange(16) % 3 == 0
    made = cut(module, channels.groups, {"layer1.0.conv1": stays})
    old = module.state_dict()
    assert torch.equal(made.weights["layer1.0.conv1.weight"], old["layer1.0.conv1.weight"][stays])
    assert torch.equal(made.weights["layer1.0.conv2.weight"], old["layer1.0.conv2.weight"][:, stays])
    assert torch.equal(made.weights["layer1.0.bn1.running_var"], old["layer1.0.bn1.running_var"][stays])
    assert torch.equal(made.weights["layer1.0.bn1.num_batches_tracked"], old["layer1.0.bn1.num_batches_tracked"])
    assert torch.equal(made.weights["linear.weight"], old["linear.weight"])


def test_zeroing_leaves_shapes_and_all_else() -> None:
    module = network("convnet")
    channels = find_channels(module, rows("convnet"))
    weights = zeroed(module, channels.groups, {"1.0": np.arange(16) >= 4})
    old = module.state_dict()
    assert not weights["1.0.weight"][:4].any()
    assert torch.equal(weights["1.0.weight"][4:], old["1.0.weight"][4:])
    changed = {key for key in old if not torch.equal(old[key], weights[key])}
    assert changed == {"1.0.weight", "1.1.weight", "1.1.bias"}


def test_neither_cutting_nor_zeroing_changes_the_model() -> None:
    module = network("resnet").train()
    before = copy.deepcopy(module.state_dict())
    channels = find_channels(module, rows("resnet"))
    kept = _some(channels, 0)
    made = cut(module, channels.groups, kept)
    for tensor in [*made.weights.values(), *zeroed(module, channels.groups, kept).values()]:
        tensor.zero_()
    answers_when_zeroed(module, channels.groups, kept, rows("resnet"))
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
