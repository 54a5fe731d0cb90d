"""What the demo sends: images that are a little harder than those of the test split."""

import numpy as np

from apps.demo.release import moved
from training.task import Split


def test_an_image_moves_by_one_pixel_at_most_and_keeps_its_label():
    images = np.zeros((50, 1, 5, 5), np.uint8)
    images[:, 0, 2, 2] = 200
    split = moved(Split(images, np.arange(50)), draws=2)
    assert split.inputs.shape == (100, 1, 5, 5)
    assert split.inputs.dtype == np.uint8
    assert np.array_equal(split.labels, np.tile(np.arange(50), 2))
    found = np.argwhere(split.inputs)[:, 2:]
    assert len(found) == 100
    assert set(map(tuple, found)) == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}


def test_what_leaves_the_image_is_gone_and_what_enters_is_dark():
    corner = np.zeros((200, 1, 3, 3), np.uint8)
    corner[:, 0, 0, 0] = 255
    split = moved(Split(corner, np.zeros(200, np.int64)))
    kept = split.inputs.reshape(200, -1).sum(axis=1)
    assert set(kept.tolist()) == {0, 255}
    assert np.array_equal(split.inputs, moved(Split(corner, np.zeros(200, np.int64))).inputs)
