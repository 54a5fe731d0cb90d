"""A training goes on under another plan, and with another number of processes, where it was interrupted."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.training.parallel.crew import Crew
from tests.training.parallel.test_strategies import PLANS, agrees, close
from tests.training.parallel.trainings import DROPOUT, ENCODER, Trained, load, save, train
from training.parallel.plan import Plan
from training.recipe import Optimizer

pytestmark = pytest.mark.slow

WAYS = {"alone": (1, Plan()), **PLANS}
STOP = 5  # steps, of seven an epoch


@pytest.fixture(scope="module")
def whole() -> Trained:
    return train(0, 1, ENCODER, Plan())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("sharded", "tensor"),
        ("pipeline", "replicas"),
        ("alone", "hybrid sharded"),
        ("tensor and sharded", "alone"),
    ],
)
def test_a_full_state_goes_on_under_another_plan(crew: Crew, whole: Trained, before: str, after: str) -> None:
    processes, plan = WAYS[before]
    state = crew.run(processes, train, ENCODER, plan, None, [STOP])[0].states[STOP]
    processes, plan = WAYS[after]
    resumed = crew.run(processes, train, ENCODER, plan, state)[0]
    agrees(resumed, whole)
    assert len(resumed.read) == len(whole.read) - STOP


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hybrid sharded", "pipeline"),
        ("sharded", "replicas"),
        ("pipeline and sharded", "tensor and sharded"),
        ("tensor", "alone"),
    ],
)
def test_a_sharded_state_goes_on_under_another_plan(
    crew: Crew, whole: Trained, tmp_path: Path, before: str, after: str
) -> None:
    processes, plan = WAYS[before]
    # What is written is the state of the step after which it was asked for, whatever was trained meanwhile.
    agrees(crew.run(processes, save, ENCODER, plan, tmp_path, STOP)[0], whole)
    written = {path.name for path in tmp_path.glob("checkpoints/epoch-*/*")}
    shards = {f"__{rank}_0.distcp" for rank in range(processes)}
    assert written == {".metadata", "state.pt", "manifest.json", *shards}
    processes, plan = WAYS[after]
    resumed = crew.run(processes, load, ENCODER, plan, tmp_path)[0]
    assert len(resumed.read) == len(whole.read) - STOP
    agrees(resumed, whole)


@pytest.mark.parametrize("way", ["alone", "replicas", "sharded", "pipeline"])
def test_the_same_plan_goes_on_to_the_same_bits(crew: Crew, tmp_path: Path, way: str) -> None:
    recipe = dataclasses.replace(DROPOUT, optimizer=Optimizer("adamw", lr=3e-3))
    processes, plan = WAYS[way]
    uninterrupted = crew.run(processes, save, recipe, plan, tmp_path, STOP)[0]
    resumed = crew.run(processes, load, recipe, plan, tmp_path)[0]
    for group in ("model", "average", "optimizer.exp_avg", "optimizer.exp_avg_sq"):
        close(resumed.final[group], uninterrupted.final[group], atol=0)
    for name, tensor in uninterrupted.weights.items():
        assert torch.equal(resumed.weights[name], tensor)


def test_the_best_weights_outlive_the_epoch_that_made_them(crew: Crew, tmp_path: Path) -> None:
    """They are in the first process alone, and written with the rest."""
    recipe = dataclasses.replace(ENCODER, epochs=3, optimizer=Optimizer("sgd", lr=3.0, momentum=0.0), ema_decay=0.0)
    uninterrupted = crew.run(2, save, recipe, Plan("sharded"), tmp_path, 15)
    resumed = crew.run(2, load, recipe, Plan("sharded"), tmp_path)
    assert uninterrupted[1].weights == {}
    assert resumed[0].weights.keys() == uninterrupted[0].weights.keys() > set()
    for name, tensor in uninterrupted[0].weights.items():
        assert torch.equal(resumed[0].weights[name], tensor)
