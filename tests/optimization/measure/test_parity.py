import numpy as np
import pytest

from optimization.measure.parity import parity
from training.encoding import Array


def test_parity_reports_the_largest_difference_and_every_flip_once() -> None:
    inputs = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.4], [0.2, 0.9], [0.6, 0.1]])

    def nudged(batch: Array) -> Array:
        moved = batch.copy()
        moved[:, 1] += 0.25
        return moved

    found = parity(lambda batch: batch, nudged, inputs, batch_sizes=(1, 2))
    assert found.max_abs_diff == pytest.approx(0.25)
    assert (found.flips, found.rows, found.flip_rate) == (1, 5, 0.2)


def test_parity_sees_what_only_large_batches_do() -> None:
    inputs = np.eye(6)

    def broken_in_batches(batch: Array) -> Array:
        return batch if len(batch) == 1 else -batch

    found = parity(lambda batch: batch, broken_in_batches, inputs, batch_sizes=(1, 6))
    assert found.flips == 6
    assert found.max_abs_diff == 2.0
    assert parity(lambda batch: batch, lambda batch: batch, inputs).max_abs_diff == 0.0


def test_a_row_that_flips_at_any_batch_size_counts() -> None:
    inputs = np.eye(6)
    found = parity(lambda batch: batch, lambda batch: -batch if len(batch) == 1 else batch, inputs, batch_sizes=(1, 6))
    assert found.flips == 6


def test_a_candidate_that_answers_nan_is_infinitely_far() -> None:
    found = parity(lambda batch: batch, lambda batch: batch * np.nan, np.ones((2, 3)))
    assert found.max_abs_diff == float("inf")


def test_parity_refuses_answers_of_another_shape() -> None:
    with pytest.raises(ValueError, match="no parity to measure"):
        parity(lambda batch: batch, lambda batch: batch[:, :2], np.ones((2, 3)))


def test_a_graph_that_froze_its_token_axis_shows_at_another_length() -> None:
    def sums(batch: Array) -> Array:
        return np.stack([batch.sum(axis=1), np.full(len(batch), 10.0)], axis=1)

    def frozen(batch: Array) -> Array:
        padded = np.full((len(batch), 8), 9.0)
        padded[:, : batch.shape[1]] = batch
        return sums(padded)

    rows = np.ones((4, 8))
    assert parity(sums, frozen, rows).flips == 0
    found = parity(sums, frozen, rows, lengths=(4,))
    assert (found.flips, found.max_abs_diff, found.rows) == (4, 36.0, 4)
    with pytest.raises(ValueError, match=r"lengths \[9\] of rows of shape \(8,\)"):
        parity(sums, sums, rows, lengths=(9,))
