import argparse

import pytest

from training.loop.worker import Worker
from training.parallel.grid import Grid
from training.parallel.plan import Plan, Shape, add_plan_arguments, read_plan


@pytest.mark.parametrize(
    ("plan", "world_size", "shape"),
    [
        (Plan(), 3, Shape(1, 3, 1, 1)),
        (Plan("sharded"), 3, Shape(1, 1, 3, 1)),
        (Plan("sharded", replicas=2), 8, Shape(1, 2, 4, 1)),
        (Plan(tensor=2), 8, Shape(1, 4, 1, 2)),
        (Plan("sharded", tensor=2, pipeline=2, replicas=2), 16, Shape(2, 2, 2, 2)),
    ],
)
def test_processes_are_arranged_as_the_plan_says(plan: Plan, world_size: int, shape: Shape) -> None:
    assert plan.shape(world_size) == shape


@pytest.mark.parametrize(
    ("plan", "world_size", "better"),
    [
        (Plan(tensor=2), 3, "use 2 or 4 of them"),
        (Plan(pipeline=4), 3, "use 4 of them"),
        (Plan("sharded", tensor=2, replicas=3), 8, "tensor 2 x pipeline 1 x replicas 3: use 6 or 12 of them"),
    ],
)
def test_a_number_of_processes_that_does_not_fit_is_refused(plan: Plan, world_size: int, better: str) -> None:
    with pytest.raises(ValueError, match=better):
        plan.shape(world_size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensor": 0}, "tensor is 0: it must be at least 1"),
        ({"bucket_mb": 0.0}, "bucket_mb is 0.0: it must be above 0"),
        ({"replicas": 2}, "replicas is 2, which is for kind 'sharded'"),
        ({"kind": "sharded", "compression": "onebit"}, "compression: of whole replicas alone; use kind 'data'"),
        ({"tensor": 2, "static_graph": True, "overlap": False}, "overlap, static_graph: of whole replicas alone"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**settings)  # type: ignore[arg-type]


def test_every_process_stands_elsewhere_and_tensor_peers_stand_side_by_side() -> None:
    shape = Plan("sharded", tensor=2, pipeline=2, replicas=2).shape(16)
    grids = [Grid(Worker(rank, 16), shape) for rank in range(16)]
    places = [(grid.stage, grid.reader.rank, grid.tensor_rank) for grid in grids]
    assert places == [(stage, data, tensor) for stage in range(2) for data in range(4) for tensor in range(2)]
    assert [grid.worker.rank for grid in grids if grid.is_leader] == [0, 8]
    assert {grid.reader.world_size for grid in grids} == {4}
    assert [grid.is_last_stage for grid in grids] == [False] * 8 + [True] * 8


def _parsed(*arguments: str) -> Plan:
    parser = argparse.ArgumentParser()
    add_plan_arguments(parser)
    return read_plan(parser.parse_args(arguments))


def test_a_plan_is_read_from_a_command_line() -> None:
    assert _parsed() == Plan()
    assert _parsed("--parallel", "sharded", "--tensor", "2", "--replicas", "3") == Plan("sharded", tensor=2, replicas=3)
    assert _parsed(
        "--compression", "powersgd", "--compression-rank", "2", "--bucket-mb", "0.5", "--no-overlap"
    ) == Plan(compression="powersgd", compression_rank=2, bucket_mb=0.5, overlap=False)
    with pytest.raises(ValueError, match="of whole replicas alone"):
        _parsed("--pipeline", "2", "--compression", "fp16")


def test_gpus_talk_by_nccl_and_cpus_by_gloo() -> None:
    assert Plan().backend("cpu") == "gloo"
    assert Plan().backend("cuda:1") == "cpu:gloo,cuda:nccl"
