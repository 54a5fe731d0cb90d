"""What a recipe does against unequal classes, easy rows and overfitting, when fit() trains by it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tests.toys import image_recipe, images
from training.loop.batches import Batch
from training.loop.fit import fit
from training.loop.losses import focal_loss
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.models.architecture import Architecture, build
from training.recipe import Augmentation, Optimizer, Recipe
from training.task import Source, Split, Task

DENSE = dataclasses.replace(
    image_recipe(), architecture=Architecture("tests.toys:dense"), optimizer=Optimizer("adamw", lr=5e-3), epochs=8
)
MIXES = {
    "mixup": Augmentation(mixup=1.0),
    "cutmix": Augmentation(cutmix=1.0),
    "both": Augmentation(mixup=1.0, cutmix=1.0),
}


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


@pytest.fixture(scope="module")
def unbalanced(toy: Task) -> Task:
    """Three rows alone of the last class to train with, and as many as of the others to validate on."""
    train = toy.splits["train"]
    keep = np.sort(np.concatenate([np.flatnonzero(train.labels < 2), np.flatnonzero(train.labels == 2)[:3]]))
    return dataclasses.replace(toy, splits={**toy.splits, "train": Split(train.inputs[keep], train.labels[keep])})


def _train(task: Task, recipe: Recipe, **more: Any) -> Training:
    torch.manual_seed(recipe.seed)
    module = build(recipe.architecture, task.encoding)
    return fit(recipe, module, task.encoding, task.splits["train"], task.splits["val"], **more)


def _probabilities(task: Task, recipe: Recipe, training: Training) -> NDArray[np.float32]:
    """Of the val split, by the weights that the training kept."""
    module = build(recipe.architecture, task.encoding).eval()
    module.load_state_dict(training.best.weights)
    with torch.inference_mode():
        probabilities: NDArray[np.float32] = module(torch.from_numpy(task.splits["val"].inputs)).softmax(1).numpy()
    return probabilities


def _recall(task: Task, recipe: Recipe, label: int) -> float:
    answers = _probabilities(task, recipe, _train(task, recipe)).argmax(axis=1)
    return float((answers[task.splits["val"].labels == label] == label).mean())


def _confidence(task: Task, recipe: Recipe, training: Training) -> float:
    return float(_probabilities(task, recipe, training).max(axis=1).mean())


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_a_rare_class_is_found_more_often_when_classes_are_balanced(unbalanced: Task, balance: Any) -> None:
    recipe = dataclasses.replace(DENSE, epochs=4, seed=1)
    balanced = dataclasses.replace(recipe, class_balance=balance)
    assert _recall(unbalanced, recipe, 2) < 0.5
    assert _recall(unbalanced, balanced, 2) > 0.9
    assert _recall(unbalanced, balanced, 0) > 0.9  # at no other's cost


class _Rows(Watcher):
    def __init__(self) -> None:
        self.ids: list[int] = []

    def step(self, training: Training, batch: Batch) -> None:
        self.ids += batch.ids.tolist()


def test_balanced_sampling_reads_every_class_alike_often(unbalanced: Task) -> None:
    read: dict[str, NDArray[np.int64]] = {}
    for balance in ("none", "sampling"):
        rows, recipe = _Rows(), dataclasses.replace(DENSE, epochs=5, class_balance=balance)
        _train(unbalanced, recipe, watchers=[rows])
        read[balance] = np.bincount(unbalanced.splits["train"].labels[rows.ids], minlength=3)
    assert read["none"].tolist() == (5 * np.bincount(unbalanced.splits["train"].labels)).tolist()
    assert (np.abs(read["sampling"] / read["sampling"].sum() - 1 / 3) < 0.08).all()


def test_under_focal_loss_rows_that_are_right_are_pushed_less(toy: Task) -> None:
    focal = dataclasses.replace(DENSE, focal_gamma=2.0)
    trained = _train(toy, focal)
    assert trained.best.accuracy > 0.95
    assert _confidence(toy, focal, trained) < _confidence(toy, DENSE, _train(toy, DENSE)) - 0.04
    by_hand = _train(toy, DENSE, loss=lambda inputs, logits, targets: focal_loss(logits, targets, 2.0))
    assert [record.train_loss for record in by_hand.records] == [record.train_loss for record in trained.records]


@pytest.mark.parametrize("name", MIXES)
def test_mixed_rows_are_learned_from_with_less_confidence(toy: Task, name: str) -> None:
    mixed, seen = dataclasses.replace(DENSE, augmentation=MIXES[name]), list[Tensor]()

    def loss(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets)
        return functional.cross_entropy(logits, targets)

    trained = _train(toy, mixed, loss=loss)
    assert trained.best.accuracy > 0.95
    assert _confidence(toy, mixed, trained) < _confidence(toy, DENSE, _train(toy, DENSE)) - 0.02
    targets = torch.cat(seen)
    assert targets.shape == (8 * 120, 3)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(targets)))
    # Two rows in three have a partner of another class, and few shares are nearly 0 or 1.
    assert 0.4 < float(((targets > 0.05) & (targets < 0.95)).any(dim=1).float().mean()) < 0.75


@pytest.mark.parametrize("name", MIXES)
def test_a_training_on_mixed_rows_goes_on_as_it_would_have(toy: Task, name: str) -> None:
    recipe = dataclasses.replace(DENSE, epochs=3, augmentation=MIXES[name])
    state = _train(toy, recipe, until_epoch=1).state()
    whole, rest = _train(toy, recipe), _train(toy, recipe, start=state)
    assert all(torch.equal(rest.best.weights[part], tensor) for part, tensor in whole.best.weights.items())


def test_all_of_it_together_is_learned_from(unbalanced: Task) -> None:
    recipe = dataclasses.replace(
        DENSE, epochs=12, class_balance="weights", focal_gamma=1.0, label_smoothing=0.05, augmentation=MIXES["both"]
    )
    assert _train(unbalanced, recipe).best.accuracy > 0.9
