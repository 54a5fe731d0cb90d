"""Each way to train one model by several processes, against one worker at the same global batch."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.parallel.crew import Crew
from tests.training.parallel.trainings import DENSE, DROPOUT, ENCODER, Trained, train
from training.loop.training import TrainingError
from training.models.architecture import Architecture
from training.parallel.plan import Plan
from training.recipe import Augmentation, Optimizer, Precision, Recipe

pytestmark = pytest.mark.slow

PLANS = {
    "replicas": (3, Plan()),
    "sharded": (3, Plan("sharded")),
    "hybrid sharded": (4, Plan("sharded", replicas=2)),
    "tensor": (2, Plan(tensor=2)),
    "tensor and data": (4, Plan(tensor=2)),
    "tensor and sharded": (4, Plan("sharded", tensor=2)),
    "pipeline": (2, Plan(pipeline=2)),
    "pipeline and data": (4, Plan(pipeline=2)),
    "pipeline and sharded": (4, Plan("sharded", pipeline=2)),
    "pipeline and tensor": (4, Plan(tensor=2, pipeline=2)),
}


@pytest.fixture(scope="module")
def alone() -> Trained:
    return train(0, 1, ENCODER, Plan())


def close(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-5, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def agrees(found: Trained, expected: Trained) -> None:
    """Weights, averages, momentum and figures, as far as sums in another order allow."""
    close(found.weights, expected.weights)
    for group in ("model", "average", "optimizer.momentum_buffer"):
        close(found.final[group], expected.final[group])
    for one, other in zip(found.records, expected.records, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-5)
        assert one.val_accuracy == other.val_accuracy


@pytest.mark.parametrize("way", PLANS)
def test_many_processes_train_as_one_does(crew: Crew, alone: Trained, way: str) -> None:
    processes, plan = PLANS[way]
    found = crew.run(processes, train, ENCODER, plan)
    agrees(found[0], alone)
    shape = plan.shape(processes)
    for step, whole in enumerate(alone.read):
        read = np.empty((shape.pipeline, shape.data, shape.tensor), object)
        for place, trained in zip(np.ndindex(read.shape), found, strict=True):
            read[place] = tuple(trained.read[step])
        # Peers along the other axes read the same rows; all readers together read each row of the batch once.
        assert all(len(set(read[:, reader].flat)) == 1 for reader in range(shape.data))
        assert sorted(row for rows in read[0, :, 0] for row in rows) == sorted(whole)


@pytest.mark.parametrize("way", ["replicas", "sharded", "tensor", "pipeline"])
def test_activations_are_recomputed_in_every_process(crew: Crew, alone: Trained, way: str) -> None:
    processes, plan = PLANS[way]
    agrees(crew.run(processes, train, dataclasses.replace(ENCODER, recompute_activations=True), plan)[0], alone)


def test_tensor_peers_drop_the_same_and_data_peers_other_things(crew: Crew) -> None:
    """What is not cut is computed by every peer, and must come out alike; which is no matter of sending it round."""
    peers = crew.run(2, train, DROPOUT, Plan(tensor=2))
    close(peers[0].uncut, peers[1].uncut, atol=0)
    assert "embedding.weight" in peers[0].uncut
    alone, replicas = train(0, 1, DROPOUT, Plan()), crew.run(2, train, DROPOUT, Plan())
    assert not torch.allclose(replicas[0].weights["head.weight"], alone.weights["head.weight"], rtol=1e-3)


@pytest.mark.parametrize("plan", [Plan(static_graph=True), Plan(overlap=False), Plan(bucket_mb=0.001)])
def test_how_gradients_travel_changes_no_weight(crew: Crew, plan: Plan) -> None:
    agrees_without_average(crew.run(2, train, DENSE, plan)[0], train(0, 1, DENSE, Plan()))


def agrees_without_average(found: Trained, expected: Trained) -> None:
    close(found.weights, expected.weights)
    assert [r.val_accuracy for r in found.records] == [r.val_accuracy for r in expected.records]


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(shift=0.25, rotate_degrees=10),
        Augmentation(shift=0.25, mixup=1.0),
        Augmentation(crop=0.5, cutmix=1.0),
        Augmentation(rotate_degrees=10, erase=0.5, mixup=1.0, cutmix=1.0),
    ],
    ids=["moved", "mixup", "cutmix", "all"],
)
def test_augmented_and_mixed_rows_are_the_same_for_any_number_of_workers(
    crew: Crew, augmentation: Augmentation
) -> None:
    recipe = dataclasses.replace(DENSE, epochs=1, augmentation=augmentation)
    expected = train(0, 1, recipe, Plan())
    agrees_without_average(crew.run(3, train, recipe, Plan())[0], expected)
    assert not torch.equal(expected.weights["2.weight"], train(0, 1, DENSE, Plan()).weights["2.weight"])


def test_adaptive_steps_agree_in_what_they_minimize(crew: Crew) -> None:
    """Weights alone would tell little: where a gradient is 0 but for rounding, AdamW makes a whole step of its sign."""
    recipe = dataclasses.replace(ENCODER, optimizer=Optimizer("adamw", lr=3e-3))
    expected, (found, *_) = train(0, 1, recipe, Plan()), crew.run(2, train, recipe, Plan("sharded"))
    for one, other in zip(found.records, expected.records, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-4)
    close(found.final["optimizer.exp_avg"], expected.final["optimizer.exp_avg"])


@pytest.mark.parametrize(
    ("way", "precision"),
    [("replicas", "fp16"), ("sharded", "bf16"), ("tensor", "fp16"), ("pipeline and sharded", "bf16")],
)
def test_low_precision_learns_what_it_learns_alone(crew: Crew, way: str, precision: Precision) -> None:
    recipe = dataclasses.replace(ENCODER, epochs=3, precision=precision)
    processes, plan = PLANS[way]
    found, expected = crew.run(processes, train, recipe, plan)[0], train(0, 1, recipe, Plan())
    assert found.records[-1].val_accuracy == expected.records[-1].val_accuracy == 1.0
    assert found.records[-1].val_loss == pytest.approx(expected.records[-1].val_loss, abs=0.02)


@pytest.mark.parametrize("plan", [Plan(), Plan("sharded")])
def test_batch_statistics_are_each_workers_own_and_the_first_ones_are_kept(crew: Crew, plan: Plan) -> None:
    """BatchNorm's exception: another number of workers gives other weights, the same number the same."""
    recipe = dataclasses.replace(DENSE, architecture=Architecture("tests.training.parallel.encoder:normalized"))
    first, second = (crew.run(2, train, recipe, plan) for _ in range(2))
    close(first[0].final["model"], second[0].final["model"], atol=0)
    assert [r.val_loss for r in first[0].records] == [r.val_loss for r in first[1].records]
    alone = train(0, 1, recipe, Plan())
    assert not torch.allclose(first[0].weights["3.running_var"], alone.weights["3.running_var"], rtol=1e-3)
    assert first[0].records[-1].val_accuracy == alone.records[-1].val_accuracy == 1.0


@pytest.mark.parametrize("plan", [Plan(), Plan("sharded"), Plan(pipeline=2)])
def test_all_stop_before_the_same_step_when_one_wants_to(crew: Crew, plan: Plan) -> None:
    assert [len(trained.read) for trained in crew.run(2, _stop_the_second, DENSE, plan)] == [5, 5]


def _stop_the_second(rank: int, world_size: int, recipe: Recipe, plan: Plan) -> Trained:
    return train(rank, world_size, recipe, plan, stop_after=4 if rank else None)


@pytest.mark.parametrize("plan", [Plan(), Plan("sharded"), Plan(pipeline=2)])
def test_all_end_when_the_loss_of_one_is_not_finite(crew: Crew, plan: Plan) -> None:
    answers = crew.run(2, _fail, DENSE, plan)
    assert answers[0] == answers[1]
    assert "not finite at epoch 1, step" in answers[0]


def _fail(rank: int, world_size: int, recipe: Recipe, plan: Plan) -> str:
    first_read = train(0, 1, dataclasses.replace(recipe, epochs=1), Plan()).read[2][0]
    with pytest.raises(TrainingError) as error:
        train(rank, world_size, recipe, plan, bad_row=first_read)
    return str(error.value)


@pytest.mark.parametrize("plan", [Plan(), Plan(pipeline=2)])
def test_the_time_spent_waiting_for_others_is_told_apart(crew: Crew, plan: Plan) -> None:
    seconds = crew.run(2, train, DENSE, plan)[0].seconds
    assert all(seconds[phase] > 0 for phase in ("forward", "backward", "communication"))
    assert train(0, 1, DENSE, Plan()).seconds["communication"] == 0


@pytest.mark.parametrize(
    ("processes", "plan", "recipe", "message"),
    [
        (2, Plan(tensor=2), DENSE, "Sequential has no layers that are known to be split"),
        (3, Plan(pipeline=3), DENSE, "2 pieces with weights, which do not fill 3 stages"),
        (
            3,
            Plan(pipeline=2),
            ENCODER,
            "3 processes cannot be arranged as tensor 1 x pipeline 2 x replicas 1: use 2 or 4",
        ),
        (3, Plan(static_graph=True), ENCODER, "static_graph with micro_batch 4: .* whole batches alone"),
        (
            2,
            Plan(compression="onebit"),
            dataclasses.replace(DENSE, precision="fp16"),
            "compression 'onebit' remembers what it left out .* use bf16, or compression fp16",
        ),
        (3, Plan(), dataclasses.replace(DENSE, batch_size=2), "a step of 2 rows cannot be shared by 3 workers"),
    ],
)
def test_what_cannot_be_is_refused_by_all(crew: Crew, processes: int, plan: Plan, recipe: Recipe, message: str) -> None:
    assert crew.run(processes, _refused, recipe, plan, message) == [None] * processes


def _refused(rank: int, world_size: int, recipe: Recipe, plan: Plan, message: str) -> Any:
    with pytest.raises(ValueError, match=message):
        train(rank, world_size, recipe, plan)
