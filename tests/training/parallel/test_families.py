"""The families of models that layout.py knows: cut as they are, they answer and train as the whole does."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.toys import IMAGES, TEXTS
from tests.training.parallel.crew import Crew
from tests.training.parallel.encoder import vit
from tests.training.parallel.test_layout import by_stages, pixels, tokens
from tests.training.parallel.test_strategies import agrees
from tests.training.parallel.trainings import ENCODER, train
from training.models.architecture import Architecture
from training.models.transformer import transformer
from training.parallel.attention import split_attention
from training.parallel.layout import splits
from training.parallel.plan import Plan
from training.recipe import Optimizer, Recipe

TRANSFORMER = dataclasses.replace(
    ENCODER,
    architecture=Architecture("transformer", {"vocabulary": 40, "width": 16, "pooling": "attention", "dropout": 0.0}),
    epochs=1,
)
VIT = dataclasses.replace(
    ENCODER,
    task="tests.toys:images",
    architecture=Architecture("tests.training.parallel.encoder:vit"),
    optimizer=Optimizer("sgd", lr=0.02),
)


def _transformer() -> nn.Module:
    return transformer(TEXTS, vocabulary=40, width=16, pooling="attention")


@pytest.mark.parametrize(("make", "inputs"), [(_transformer, tokens()), (lambda: vit(IMAGES), pixels())])
def test_a_known_model_is_taken_apart(make: Any, inputs: Tensor) -> None:
    module = make().eval()
    with torch.no_grad():
        expected = module(inputs)
        split_attention(module)
        torch.testing.assert_close(by_stages(module, inputs, 2), expected)
    found = splits(module)
    assert len(found) == 4  # two layers, an attention and a pair of linear layers in each
    for layer, split in found:
        assert all(isinstance(layer.get_submodule(name), nn.Linear) for name in (*split.columns, *split.rows))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [TRANSFORMER, VIT])
@pytest.mark.parametrize("plan", [Plan(pipeline=2), Plan(tensor=2), Plan("sharded")])
def test_a_known_model_trains_as_one_process_trains_it(crew: Crew, recipe: Recipe, plan: Plan) -> None:
    agrees(crew.run(2, train, recipe, plan)[0], train(0, 1, recipe, Plan()))
