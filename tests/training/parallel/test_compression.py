import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.training.parallel.crew import Crew
from tests.training.parallel.test_strategies import close
from tests.training.parallel.trainings import DENSE, train
from training.loop.worker import Worker
from training.parallel.compression import OneBit, pack_signs, signs_by, unpack_signs
from training.parallel.plan import Compression, Plan
from training.parallel.replicas import Replicas


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_signs_travel_eight_a_byte(count: int) -> None:
    torch.manual_seed(0)
    numbers = torch.randn(count)
    packed = pack_signs(numbers)
    assert (packed.dtype, len(packed)) == (torch.uint8, -(-count // 8))
    assert torch.equal(unpack_signs(packed, count), numbers >= 0)


def test_each_parameter_has_its_own_scale() -> None:
    found = signs_by(torch.tensor([True, False, True]), torch.tensor([2.0, 5.0]), [2, 1])
    assert found.tolist() == [2.0, -2.0, 5.0]


@pytest.mark.slow
@pytest.mark.parametrize(("compression", "atol"), [("fp16", 3e-4), ("bf16", 2e-3)])
def test_half_the_bytes_give_nearly_the_same_weights(crew: Crew, compression: Compression, atol: float) -> None:
    found = crew.run(2, train, DENSE, Plan(compression=compression))
    close(found[0].final["model"], found[1].final["model"], atol=0)
    expected = train(0, 1, DENSE, Plan())
    close(found[0].final["model"], expected.final["model"], atol=atol)
    assert not torch.equal(found[0].weights["2.weight"], expected.weights["2.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("plan", [Plan(compression="powersgd", compression_rank=1), Plan(compression="onebit")])
def test_the_toy_is_learned_as_well_from_a_small_part_of_the_gradient(crew: Crew, plan: Plan) -> None:
    recipe = dataclasses.replace(DENSE, epochs=6)
    found = crew.run(3, train, recipe, plan)
    close(found[0].final["model"], found[2].final["model"], atol=0)
    expected = train(0, 1, recipe, Plan())
    assert found[0].records[-1].val_accuracy == expected.records[-1].val_accuracy == 1.0
    assert not torch.equal(found[0].weights["2.weight"], expected.weights["2.weight"])


@pytest.mark.slow
def test_what_signs_leave_out_has_to_be_made_up_for(crew: Crew) -> None:
    """Two workers whose data agree on little: without feedback signs lead past the minimum of their sum for ever."""
    without, with_feedback, exact = (
        crew.run(2, _distance_to_the_minimum, feedback)[0] for feedback in (False, True, None)
    )
    assert exact < 1e-3
    assert with_feedback < 0.05
    assert without > 5 * with_feedback


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["powersgd", "onebit"])
def test_two_steps_are_exact_before_anything_is_left_out(crew: Crew, compression: Compression) -> None:
    exact = crew.run(2, _gradients, Plan())[0]
    compressed = crew.run(2, _gradients, Plan(compression=compression, compression_rank=1))[0]
    same = [found == expected for found, expected in zip(compressed, exact, strict=True)]
    assert same == [True, True, False, False]


def _gradients(rank: int, world_size: int, plan: Plan) -> list[Any]:
    """What four backward passes of the same rows leave in the first of two layers, in two buckets."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 3))
    worker = Worker(rank, world_size)
    strategy = Replicas(DENSE, worker, dataclasses.replace(plan, bucket_mb=0.001))
    strategy.wrap(module)
    torch.manual_seed(rank)
    inputs = torch.randn(16, 8)
    found = []
    for _ in range(4):
        module.zero_grad()
        strategy.model(inputs).square().mean().backward()
        found.append(module[0].weight.grad.tolist())
    return found


def _distance_to_the_minimum(rank: int, world_size: int, feedback: bool | None) -> float:
    """Of least squares by gradient descent, float: the root mean square of what is missing."""
    torch.manual_seed(0)
    inputs, noise = torch.randn(2, 64, 8), torch.randn(2, 64, 1)
    targets = inputs @ torch.randn(8, 1) + 2 * noise
    minimum: Tensor = torch.linalg.lstsq(inputs.flatten(0, 1), targets.flatten(0, 1)).solution.T
    torch.manual_seed(0)
    layer = nn.Linear(8, 1, bias=False)
    model = DistributedDataParallel(layer)
    if feedback is not None:
        group = torch.distributed.group.WORLD
        assert group is not None
        model.register_comm_hook(OneBit(group, feedback), OneBit.send)
    for _ in range(400):
        model.zero_grad()
        (model(inputs[rank]) - targets[rank]).square().mean().backward()
        with torch.no_grad():
            layer.weight -= 0.02 * layer.weight.grad
    return float((layer.weight.detach() - minimum).square().mean().sqrt())
