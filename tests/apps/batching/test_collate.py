import numpy as np
import pytest

from apps.batching.collate import Collator, collate, padded_rows


def images(rows, value=1):
    return np.full((rows, 1, 2, 2), value, np.uint8)


def test_texts_are_padded_to_the_longest_with_the_pad_id():
    batch = collate([np.array([[5, 6]]), np.array([[7, 8, 9], [1, 2, 3]])], pad_id=0)
    assert batch.tolist() == [[5, 6, 0], [7, 8, 9], [1, 2, 3]]


def test_a_single_part_comes_as_it_is():
    part = images(2)
    assert collate([part], pad_id=0) is part


@pytest.mark.parametrize(("rows", "padded"), [(1, 1), (2, 4), (4, 4), (5, 8), (9, 9)])
def test_a_batch_grows_to_the_next_size(rows, padded):
    assert padded_rows(rows, (1, 4, 8)) == padded


def test_padding_rows_are_copies_of_the_last():
    batch = Collator(sizes=(4,))([images(1, 1), images(2, 7)])
    assert batch[:, 0, 0, 0].tolist() == [1, 7, 7, 7]


def test_a_single_part_is_padded_too_and_left_alone():
    part = images(3, 5)
    batch = Collator(sizes=(4,))([part])
    assert len(batch) == 4
    assert len(part) == 3
    assert not np.may_share_memory(batch, part)


def test_the_space_of_a_batch_is_used_again():
    collator = Collator(room=4)
    first = collator([images(1), images(1)])
    second = collator([images(2), images(2)])
    assert np.may_share_memory(first, second)


def test_another_shape_or_type_gets_its_own_space():
    collator = Collator(room=4)
    collator([images(1), images(1)])
    batch = collator([np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)])
    assert batch.dtype == np.float32
    assert batch.tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("other", [np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 3, 3), np.uint8)])
def test_parts_that_do_not_fit_together_are_refused(other):
    with pytest.raises((TypeError, ValueError)):
        Collator()([images(1), other])
