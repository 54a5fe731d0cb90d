import numpy as np
import pytest
from numpy.typing import NDArray

from training.loop.order import POOL_BATCHES, EpochOrder, epoch_order, share, steps_per_epoch


def _batches(order: EpochOrder) -> list[NDArray[np.int64]]:
    return [order.batch(step) for step in range(order.steps)]


def _lengths(rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(9).integers(5, 100, rows)


def _by_length(rows: int, seed: int = 0, epoch: int = 1, batch_size: int = 20) -> EpochOrder:
    return epoch_order(seed, epoch, rows, batch_size, lengths=_lengths(rows))


def test_the_order_is_the_same_whenever_it_is_asked_for() -> None:
    np.random.seed(1)
    first = epoch_order(seed=3, epoch=2, rows=1000, batch_size=10)
    np.random.seed(2)
    assert (epoch_order(seed=3, epoch=2, rows=1000, batch_size=10).ids == first.ids).all()


def test_every_epoch_and_seed_has_a_permutation_of_its_own() -> None:
    orders = [epoch_order(seed, epoch, 500, 20).ids for seed in (0, 1) for epoch in (1, 2, 3)]
    assert all((np.sort(order) == np.arange(500)).all() for order in orders)
    assert len({order.tobytes() for order in orders}) == 6


@pytest.mark.parametrize("rows", [1, 7, 20, 21, 103, 1013])
@pytest.mark.parametrize("by_length", [False, True])
def test_every_row_is_read_exactly_once_in_batches_of_like_size(rows: int, by_length: bool) -> None:
    order = _by_length(rows) if by_length else epoch_order(0, 1, rows, 20)
    batches = _batches(order)
    assert (np.sort(np.concatenate(batches)) == np.arange(rows)).all()
    assert len(batches) == steps_per_epoch(rows, 20)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= 20
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_workers_share_a_global_batch_without_overlap(world_size: int) -> None:
    for batch in _batches(epoch_order(seed=0, epoch=1, rows=103, batch_size=20)):
        parts = [share(batch, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rows_are_drawn_by_their_probabilities() -> None:
    probabilities = np.array([0.5, *[0.5 / 999] * 999])
    order = epoch_order(0, 1, 1000, 20, probabilities)
    assert len(order.ids) == 1000
    assert 440 < (order.ids == 0).sum() < 560
    assert (epoch_order(0, 1, 1000, 20, probabilities).ids == order.ids).all()


def test_batches_by_length_need_little_padding() -> None:
    rows, lengths = 4000, _lengths(4000)

    def padded(order: EpochOrder) -> int:
        return sum(int(lengths[batch].max()) * len(batch) for batch in _batches(order))

    assert padded(_by_length(rows)) < 1.1 * lengths.sum() < 0.7 * padded(epoch_order(0, 1, rows, 20))


def test_batches_by_length_come_in_no_order_of_length() -> None:
    lengths = _lengths(4000)
    longest = np.array([lengths[batch].max() for batch in _batches(_by_length(4000))])
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3
    for pool in longest.reshape(-1, POOL_BATCHES):
        assert (pool != np.sort(pool)).any()


def test_rows_of_one_length_keep_other_company_in_other_epochs_and_seeds() -> None:
    lengths = np.full(200, 7)
    batches = {
        frozenset(batch.tolist())
        for seed, epoch in ((0, 1), (0, 2), (1, 1))
        for batch in _batches(epoch_order(seed, epoch, 200, 20, lengths=lengths))
    }
    assert len(batches) == 30
