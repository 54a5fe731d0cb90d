import numpy as np
import pytest
import torch
from torch.nn import functional

from optimization.prune.allocation import best_units
from optimization.prune.criteria import unit_scores
from optimization.prune.cut import answers_when_zeroed
from optimization.prune.dependencies import find_channels
from optimization.prune.group import PruneError
from optimization.prune.settings import Criterion, Prune
from tests.optimization.prune.networks import network, rows
from training.task import Split

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1], dtype=np.int64)


def _scores(name: str, criterion: Criterion, **change: int) -> dict[str, np.ndarray]:
    module, batch = network(name), rows(name, 8)
    split = Split(batch.numpy(), LABELS % (2 if name == "bag" else 3))
    groups = find_channels(module, batch).groups
    return dict(unit_scores(module, groups, Prune(amount=0.5, criterion=criterion, **change), split))


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_is_of_all_weights_that_make_or_read_a_channel(criterion: Criterion, power: int) -> None:
    module = network("resnet20")
    made = module.get_parameter("layer2.0.conv1.weight").detach().double()
    read = module.get_parameter("layer2.0.conv2.weight").detach().double()
    wanted = (made.abs() ** power).sum(dim=(1, 2, 3)) + (read.abs() ** power).sum(dim=(0, 2, 3))
    wanted = wanted ** (1 / power)
    found = _scores("resnet20", criterion)["layer2.0.conv1"]
    np.testing.assert_allclose(found, (wanted / wanted.mean()).numpy(), rtol=1e-6)


def test_magnitude_says_nothing_of_how_large_a_layers_weights_are() -> None:
    scores = _scores("resnet20", "l1")
    assert all(score.mean() == pytest.approx(1) for score in scores.values())


def test_magnitude_of_a_channel_that_is_many_features_takes_in_all_of_them() -> None:
    module = network("flattened")
    made, read = (module.get_parameter(name).detach().double().abs() for name in ("1.weight", "4.weight"))
    wanted = made.sum(dim=(1, 2, 3)) + read.view(16, 8, 16).sum(dim=(0, 2))
    found = _scores("flattened", "l1")["1"]
    np.testing.assert_allclose(found, (wanted / wanted.mean()).numpy(), rtol=1e-6)


def test_the_scale_is_of_the_batch_norms_of_a_channel() -> None:
    module = network("resnet20")
    found = _scores("resnet20", "bn_scale")["layer3.1.conv1"]
    np.testing.assert_allclose(found, module.get_parameter("layer3.1.bn1.weight").detach().abs().numpy(), rtol=1e-6)


def test_groups_without_a_batch_norm_stay_whole_by_its_scale() -> None:
    assert set(_scores("joined", "bn_scale")) == {"left", "right"}
    with pytest.raises(PruneError, match="no channel of this model is normalized by a BatchNorm"):
        _scores("flattened", "bn_scale")


@pytest.mark.parametrize("name", ["resnet20", "flattened"])
def test_taylor_foretells_what_the_loss_would_be_without_a_channel(name: str) -> None:
    """Channels made a thousandth weaker: to first order the loss changes by a thousandth of the score's root."""
    module, batch = network(name), rows(name, 8)
    labels = torch.from_numpy(LABELS)
    channels = find_channels(module, batch)
    group = channels.groups[0]
    found = _scores(name, "taylor")[group.name]
    gates = [axis.layer for axis in group.axes if "bn" in axis.layer] or [group.name]
    with torch.no_grad():
        for unit in range(group.units):
            losses = []
            for factor in (1 - 1e-3, 1 + 1e-3):
                weights = {key: tensor.clone() for key, tensor in module.state_dict().items()}
                for layer in gates:
                    for own in ("weight", "bias"):
                        if f"{layer}.{own}" in weights:
                            weights[f"{layer}.{own}"][unit] *= factor
                logits = torch.func.functional_call(module, weights, (batch,)).double()
                losses.append(float(functional.cross_entropy(logits, labels)))
            slope = (losses[1] - losses[0]) / 2e-3
            assert found[unit] == pytest.approx(slope**2, rel=0.1, abs=1e-4 * found.max())


def test_taylor_leaves_the_loss_lower_than_chance_does() -> None:
    module, batch = network("resnet", 3), rows("resnet", 8)
    with torch.no_grad():
        labels = module(batch).argmax(dim=1)  # what it answers is taken for right, so that it has something to lose
    split, groups = Split(batch.numpy(), labels.numpy()), find_channels(module, batch).groups
    losses = {}
    for criterion, seeds in (("taylor", [0]), ("random", range(8))):
        found = []
        for seed in seeds:
            scores = unit_scores(module, groups, Prune(amount=0.5, criterion=criterion, seed=seed), split)
            kept = {name: best_units(score, 3 * len(score) // 4) for name, score in scores.items()}
            found.append(float(functional.cross_entropy(answers_when_zeroed(module, groups, kept, batch), labels)))
        losses[criterion] = float(np.median(found))
    assert losses["taylor"] < losses["random"]


def test_taylor_reads_as_many_rows_as_it_is_told() -> None:
    few, all_rows = _scores("convnet", "taylor", taylor_rows=2), _scores("convnet", "taylor")
    assert not np.allclose(few["1.0"], all_rows["1.0"])


def test_random_depends_on_the_seed_alone() -> None:
    first, same, other = (_scores("convnet", "random", seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_weights_that_are_not_finite_are_refused() -> None:
    module, batch = network("convnet"), rows("convnet")
    groups = find_channels(module, batch).groups
    with torch.no_grad():
        module.get_parameter("1.0.weight")[2, 0, 0, 0] = float("nan")
    with pytest.raises(PruneError, match=r"l1 of the channels of 1\.0 is not finite"):
        unit_scores(module, groups, Prune(amount=0.5, criterion="l1"), Split(batch.numpy(), LABELS[:4]))


def test_scoring_changes_nothing() -> None:
    module, batch = network("resnet").train(), rows("resnet", 8)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    groups = find_channels(module, batch).groups
    unit_scores(module, groups, Prune(amount=0.5, criterion="taylor"), Split(batch.numpy(), LABELS))
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
