import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.toys import image_recipe, images
from training.loop.find import Batch, find_learning_rate, find_micro_batch, largest_that_fits, trial
from training.loop.fit import fit
from training.models.architecture import Architecture, build
from training.recipe import Optimizer, Recipe, Schedule
from training.task import Source, Task


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


def _loss(inputs: Tensor, logits_BC: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits_BC, targets)


def _module(toy: Task, recipe: Recipe | None = None) -> nn.Module:
    torch.manual_seed(0)
    return build((recipe or image_recipe()).architecture, toy.encoding)


def _batches(toy: Task, rows: int = 20) -> Iterator[Batch]:
    random, train = np.random.default_rng(0), toy.splits["train"]
    while True:
        ids = random.choice(len(train), rows, replace=False)
        yield torch.from_numpy(train.inputs[ids]), torch.from_numpy(train.labels[ids])


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_a_model_learns_at_the_rate_that_is_found(toy: Task, name: str) -> None:
    recipe = dataclasses.replace(image_recipe(), optimizer=Optimizer(name), schedule=Schedule("constant", 0.0))  # type: ignore[arg-type]
    curve = find_learning_rate(recipe, _module(toy), _batches(toy), _loss)
    assert curve.suggestion < curve.rates[int(np.argmin(curve.smoothed))]
    found = dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, lr=curve.suggestion), epochs=8)
    records = fit(found, _module(toy), toy.encoding, toy.splits["train"], toy.splits["val"]).records
    assert records[-1].train_loss < 0.6 * records[0].train_loss
    assert records[-1].val_accuracy > 0.6


class _Bowl(nn.Module):
    """Its logit is its one weight, which starts at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight.expand(len(inputs), 1)


def test_a_rate_that_diverges_ends_the_search() -> None:
    """Gradient descent on 10 w² is stable below a rate of 2 / 20."""
    recipe = dataclasses.replace(image_recipe(), optimizer=Optimizer("sgd", momentum=0.0), clip_norm=float("inf"))
    batches = ((torch.zeros(1), torch.zeros(1)) for _ in range(1000))
    curve = find_learning_rate(
        recipe, _Bowl(), batches, lambda inputs, logits, targets: 10 * logits.square().mean() + 1, 1e-4, 1e4
    )
    assert curve.diverged
    assert 0.1 < curve.rates[-1] < 1
    assert 1e-3 < curve.suggestion < 0.1
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) < 100
    assert np.isfinite(curve.losses).all()


def test_a_loss_that_never_falls_is_told_of() -> None:
    batches = ((torch.zeros(1), torch.zeros(1)) for _ in range(1000))
    recipe = dataclasses.replace(image_recipe(), optimizer=Optimizer("sgd", momentum=0.0))
    with pytest.raises(
        ValueError, match="the loss did not fall in 100 steps, at rates from 1e-06 on: look at the data"
    ):
        find_learning_rate(recipe, _Bowl(), batches, lambda inputs, logits, targets: 0 * logits.mean() + 1)
    with pytest.raises(ValueError, match="the loss did not fall in 0 steps"):
        find_learning_rate(recipe, _Bowl(), batches, lambda inputs, logits, targets: logits.mean() / 0)


def test_too_few_steps_are_refused(toy: Task) -> None:
    with pytest.raises(ValueError, match="9 steps tell nothing of a learning rate: give at least 10"):
        find_learning_rate(image_recipe(), _module(toy), _batches(toy), _loss, steps=9)


def test_nothing_is_left_behind(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), architecture=Architecture("convnet", {"widths": [8], "dropout": 0.3}))
    module = _module(toy, recipe).eval()
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    first = find_learning_rate(recipe, module, _batches(toy), _loss, steps=30)
    read = _batches(toy)
    find_micro_batch(recipe, module, lambda rows: next(read), _loss, most=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert find_learning_rate(recipe, module, _batches(toy), _loss, steps=30) == first


@pytest.mark.parametrize("changes", [{"micro_batch": 7}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_a_trials_steps_are_the_recipes(toy: Task, changes: dict[str, object]) -> None:
    dense = Architecture("tests.toys:dense", {"hidden": 16})
    recipe = dataclasses.replace(image_recipe(), architecture=dense, optimizer=Optimizer("sgd"))
    changed = dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]
    losses = []
    for one in (recipe, changed):
        batches = _batches(toy)
        with trial(one, _module(toy, recipe), _loss) as step:
            losses.append([step(next(batches), 0.05) for _ in range(5)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if "micro_batch" in changes else 0.02)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 64, 100, 127, 128, 1000])
@pytest.mark.parametrize("most", [1, 100, 128, 500])
def test_the_largest_that_fits_is_found_by_doubling_and_halving(limit: int, most: int) -> None:
    tried: list[int] = []

    def fits(rows: int) -> bool:
        tried.append(rows)
        return rows <= limit

    assert largest_that_fits(fits, most, resolution=0) == min(limit, most)
    assert max(tried) <= most
    assert len(tried) == len(set(tried)) < 18


def test_a_coarse_search_ends_within_its_resolution() -> None:
    assert 94 <= largest_that_fits(lambda rows: rows <= 100, 500, resolution=1 / 16) <= 100


def test_what_does_not_fit_is_not_suggested(toy: Task) -> None:
    def read(rows: int) -> Batch:
        if rows > 9:
            raise torch.OutOfMemoryError(f"{rows} rows")
        return next(_batches(toy, rows))

    curve = find_micro_batch(image_recipe(), _module(toy), read, _loss, most=64)
    assert curve.rows == (1, 2, 4, 8)
    assert curve.suggestion in curve.rows
    assert all(speed > 0 for speed in curve.samples_per_s)


def test_a_model_too_large_for_a_row_is_told_of(toy: Task) -> None:
    def read(rows: int) -> Batch:
        raise torch.OutOfMemoryError("none left")

    with pytest.raises(ValueError, match="not even one row fits into memory"):
        find_micro_batch(image_recipe(), _module(toy), read, _loss, most=64)


def test_on_a_cpu_the_smallest_of_the_fast_is_suggested(toy: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {1: 10.0, 2: 40.0, 4: 96.0, 8: 100.0, 16: 99.0}
    monkeypatch.setattr("training.loop.find._samples_per_s", lambda step, batch, rate: speeds[len(batch[0])])
    curve = find_micro_batch(image_recipe(), _module(toy), lambda rows: next(_batches(toy, rows)), _loss, most=16)
    assert dict(zip(curve.rows, curve.samples_per_s, strict=True)) == speeds
    assert curve.suggestion == 4
