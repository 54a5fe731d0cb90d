import numpy as np
import pytest
from numpy.typing import NDArray

from training.loop.order import POOL_BATCHES, epoch_order, group_by_length, step_ids, steps_per_epoch


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


def _lengths(rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(9).integers(5, 100, rows)


def test_batches_by_length_read_the_same_rows_and_leave_out_the_same_rest() -> None:
    lengths = _lengths(1013)
    order = epoch_order(seed=0, epoch=1, rows=1013)
    grouped = group_by_length(order, lengths, batch_size=20, seed=0, epoch=1)
    assert (np.sort(grouped) == np.arange(1013)).all()
    assert (grouped[1000:] == order[1000:]).all()
    assert (grouped == group_by_length(order, lengths, batch_size=20, seed=0, epoch=1)).all()


def test_batches_by_length_need_little_padding() -> None:
    rows, batch_size = 4000, 20
    lengths = _lengths(rows)
    order = epoch_order(0, 1, rows)

    def padded(order: NDArray[np.int64]) -> int:
        return int(lengths[order].reshape(-1, batch_size).max(axis=1).sum()) * batch_size

    grouped = group_by_length(order, lengths, batch_size, seed=0, epoch=1)
    assert padded(grouped) < 1.1 * lengths.sum() < 0.7 * padded(order)


def test_batches_by_length_come_in_no_order_of_length() -> None:
    lengths = _lengths(4000)
    grouped = group_by_length(epoch_order(0, 1, 4000), lengths, batch_size=20, seed=0, epoch=1)
    longest = lengths[grouped].reshape(-1, 20).max(axis=1)
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3
    for pool in longest.reshape(-1, POOL_BATCHES):
        assert (pool != np.sort(pool)).any()


def test_rows_of_one_length_keep_other_company_in_other_epochs_and_seeds() -> None:
    lengths = np.full(200, 7)
    batches = {
        frozenset(batch)
        for seed, epoch in ((0, 1), (0, 2), (1, 1))
        for batch in group_by_length(epoch_order(seed, epoch, 200), lengths, 20, seed, epoch).reshape(-1, 20).tolist()
    }
    assert len(batches) == 30


def test_fewer_rows_than_a_batch_stay_as_they_are() -> None:
    order = epoch_order(0, 1, 7)
    assert (group_by_length(order, _lengths(7), 20, seed=0, epoch=1) == order).all()
