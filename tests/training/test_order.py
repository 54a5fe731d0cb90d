import numpy as np
import pytest

from training.order import epoch_order, step_ids, steps_per_epoch


def test_the_order_is_the_same_whenever_it_is_asked_for() -> None:
    np.random.seed(1)
    first = epoch_order(seed=3, epoch=2, rows=1000)
    np.random.seed(2)
    assert (epoch_order(seed=3, epoch=2, rows=1000) == first).all()


def test_every_epoch_and_seed_has_a_permutation_of_its_own() -> None:
    orders = [epoch_order(seed, epoch, 500) for seed in (0, 1) for epoch in (1, 2, 3)]
    for order in orders:
        assert (np.sort(order) == np.arange(500)).all()
    assert len({order.tobytes() for order in orders}) == 6


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_workers_share_a_global_batch_without_overlap(world_size: int) -> None:
    order = epoch_order(seed=0, epoch=1, rows=103)
    for step in range(steps_per_epoch(103, 20)):
        parts = [step_ids(order, step, 20, rank, world_size) for rank in range(world_size)]
        together = np.concatenate(parts)
        assert len(together) == 20
        assert set(together) == set(order[step * 20 : (step + 1) * 20])
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_no_row_is_read_twice_in_an_epoch() -> None:
    order = epoch_order(seed=0, epoch=1, rows=103)
    read = np.concatenate([step_ids(order, step, 20) for step in range(steps_per_epoch(103, 20))])
    assert len(read) == len(set(read)) == 100


def test_the_rest_of_one_epoch_is_read_in_others() -> None:
    left = [set(range(103)) - set(epoch_order(0, epoch, 103)[:100]) for epoch in (1, 2)]
    assert left[0] != left[1]


def test_fewer_rows_than_a_batch_are_one_step_of_all_of_them() -> None:
    assert steps_per_epoch(7, 20) == 1
    assert set(step_ids(epoch_order(0, 1, 7), 0, 20)) == set(range(7))
