import io

import numpy as np
import pytest
from PIL import Image

from training.evaluation.examples import MAX_PICTURE_SIDE, doubtful_rows, picture_png, worst_examples

NAMES = ("cat", "dog")
# Sure and unsure, right and wrong; row 3 is taken for a dog more surely than dogs are in the mean.
LOGITS = np.array([[3.0, 0.0], [0.1, 0.0], [0.0, 0.2], [0.0, 9.0], [2.0, 0.0], [0.0, 4.0], [0.0, 3.0]])
LABELS = np.array([0, 0, 0, 0, 1, 1, 1])


def test_the_costliest_wrong_answers_come_first() -> None:
    examples = worst_examples(LOGITS, LABELS, NAMES, most=2)
    assert [one.row for one in examples] == [3, 4]
    worst = examples[0]
    assert (worst.truth, worst.answer) == ("cat", "dog")
    assert worst.loss == pytest.approx(-np.log(worst.truth_probability)) == pytest.approx(9, abs=1e-3)
    assert worst.confidence + worst.truth_probability == pytest.approx(1)
    assert len(worst_examples(LOGITS, LABELS, NAMES, most=99)) == 3


def test_a_label_is_doubted_where_the_model_is_as_sure_as_of_that_class_elsewhere() -> None:
    assert list(np.flatnonzero(doubtful_rows(LOGITS, LABELS))) == [3, 4]


def test_no_label_is_doubted_for_a_class_that_no_row_bears() -> None:
    assert not doubtful_rows(np.array([[0.0, 9.0]]), np.array([0])).any()


def test_right_answers_are_no_examples() -> None:
    assert worst_examples(np.eye(2) * 5, np.array([0, 1]), NAMES, most=5) == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_pixels_themselves_and_large_ones_are_made_small(channels: int) -> None:
    small = np.random.default_rng(0).integers(0, 256, (channels, 9, 7), dtype=np.uint8)
    read = np.asarray(Image.open(io.BytesIO(picture_png(small))))
    assert (read == (small[0] if channels == 1 else small.transpose(1, 2, 0))).all()
    large = Image.open(io.BytesIO(picture_png(np.zeros((channels, 400, 200), np.uint8))))
    assert large.size == (MAX_PICTURE_SIDE // 2, MAX_PICTURE_SIDE)
