import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.toys import image_recipe
from training.loop.losses import balanced_probabilities, class_weights, focal_loss, make_loss
from training.recipe import Recipe

LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)
INPUTS = torch.zeros(0)


def _recipe(**changes: object) -> Recipe:
    return dataclasses.replace(image_recipe(), **changes)  # type: ignore[arg-type]


RECIPES = [
    _recipe(),
    _recipe(label_smoothing=0.1),
    _recipe(focal_gamma=2.0),
    _recipe(class_balance="weights"),
    _recipe(class_balance="weights", focal_gamma=1.5, label_smoothing=0.1),
]
NAMES = ["plain", "smoothed", "focal", "weighted", "all"]


def _logits(rows: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=generator) * 3, torch.randint(0, 3, (rows,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_focus_and_weights_it_is_torchs_cross_entropy_to_the_bit(smoothing: float) -> None:
    logits, labels = _logits()
    loss = make_loss(_recipe(label_smoothing=smoothing, class_balance="sampling"), LABELS, 3)
    assert loss(INPUTS, logits, labels) == functional.cross_entropy(logits, labels, label_smoothing=smoothing)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_mean_over_a_batch_is_the_parts_means_by_their_rows(recipe: Recipe) -> None:
    loss = make_loss(recipe, LABELS, 3)
    logits, labels = _logits()
    parts = [(0, 1), (1, 9), (9, 24)]
    split = sum(float(loss(INPUTS, logits[a:b], labels[a:b])) * (b - a) for a, b in parts)
    assert float(loss(INPUTS, logits, labels)) == pytest.approx(split / 24, rel=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_probabilities_that_name_one_class_count_as_its_number(recipe: Recipe) -> None:
    loss = make_loss(recipe, LABELS, 3)
    logits, labels = _logits()
    soft = functional.one_hot(labels, 3).float()
    assert float(loss(INPUTS, logits, soft)) == pytest.approx(float(loss(INPUTS, logits, labels)), rel=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_mixed_targets_give_the_mixture_of_the_losses(recipe: Recipe) -> None:
    """What mixup asks for."""
    loss = make_loss(recipe, LABELS, 3)
    logits, labels = _logits()
    others = (labels + 1) % 3
    one, other = functional.one_hot(labels, 3).float(), functional.one_hot(others, 3).float()
    mixed = float(loss(INPUTS, logits, 0.3 * one + 0.7 * other))
    expected = 0.3 * float(loss(INPUTS, logits, labels)) + 0.7 * float(loss(INPUTS, logits, others))
    assert mixed == pytest.approx(expected, rel=1e-5)


def test_focal_loss_is_as_published() -> None:
    logits, labels = _logits()
    p = logits.double().softmax(1)[torch.arange(24), labels]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    assert float(focal_loss(logits, labels, gamma=2.0)) == pytest.approx(float(expected), rel=1e-5)


def test_what_is_well_classified_counts_less_under_focal_loss() -> None:
    sure, unsure, label = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.0, 0.0]]), torch.tensor([0])
    plain = functional.cross_entropy(sure, label) / functional.cross_entropy(unsure, label)
    assert focal_loss(sure, label, 2.0) / focal_loss(unsure, label, 2.0) < plain / 50


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_has_a_finite_gradient_where_a_row_is_certain(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    torch.autograd.backward(focal_loss(logits, torch.tensor([0, 0]), gamma))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_rare_classes_weigh_more_and_the_mean_over_the_split_is_one() -> None:
    weights = class_weights(LABELS, 3)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights * np.bincount(LABELS), len(LABELS) / 3, rtol=1e-6)
    assert weights[LABELS].mean() == pytest.approx(1, rel=1e-6)


def test_a_weighted_loss_over_the_split_counts_every_class_alike() -> None:
    logits = torch.randn(len(LABELS), 3, generator=torch.Generator().manual_seed(1))
    loss = make_loss(_recipe(class_balance="weights"), LABELS, 3)(INPUTS, logits, torch.from_numpy(LABELS))
    losses = functional.cross_entropy(logits, torch.from_numpy(LABELS), reduction="none").numpy()
    by_class = np.mean([losses[label == LABELS].mean() for label in range(3)])
    assert float(loss) == pytest.approx(float(by_class), rel=1e-5)


def test_a_class_that_does_not_occur_takes_no_part() -> None:
    assert class_weights(np.array([0, 0, 0, 2]), 4).tolist() == pytest.approx([2 / 3, 1, 2, 1])
    assert balanced_probabilities(np.array([0, 0, 0, 2])).tolist() == pytest.approx([1 / 6] * 3 + [1 / 2])


def test_balanced_probabilities_give_every_class_the_same_share() -> None:
    probabilities = balanced_probabilities(LABELS)
    assert probabilities.sum() == pytest.approx(1)
    assert [probabilities[label == LABELS].sum() for label in range(3)] == pytest.approx([1 / 3] * 3)
