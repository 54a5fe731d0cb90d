import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.toys import IMAGES
from training.loop.worker import seed_everything, seed_step
from training.models.architecture import Architecture, build
from training.models.vision import Scale


def handmade(encoding: Any) -> nn.Module:
    """A user's own model, which draws its weights from all three generators."""
    linear = nn.Linear(16, 3)
    with torch.no_grad():
        linear.weight += torch.from_numpy(np.random.normal(size=(3, 16))).float()
        linear.bias += random.random()
    return nn.Sequential(Scale(), nn.Flatten(), linear)


def _built(seed: int) -> list[Tensor]:
    seed_everything(seed)
    module = build(Architecture("tests.training.loop.test_worker:handmade"), IMAGES)
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_a_model_of_ones_own_begins_the_same_whatever_it_draws_from(seed: int) -> None:
    first = _built(seed)
    assert all(torch.equal(one, again) for one, again in zip(first, _built(seed), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(first, _built(seed + 1), strict=True))


def _drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.random()), random.random()


def test_a_step_is_seeded_by_all_that_it_is_of() -> None:
    steps = [(0, 1, 0, 0), (1, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1)]

    def drawn(step: tuple[int, int, int, int]) -> tuple[float, float, float]:
        seed_step(*step)
        return _drawn()

    found = [drawn(step) for step in steps]
    assert all(len(set(values)) == len(steps) for values in zip(*found, strict=True))
    assert [drawn(step) for step in steps] == found
