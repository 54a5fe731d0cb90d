"""The tiny model's logits are its first three pixels, so a view can be read off its answer."""

import numpy as np
import pytest

from apps.demo.views import averaged_over_views, jittered_grid, max_shifted_views, shifted_grid
from optimization.runners.onnx_runtime import onnx_session
from tests.tiny import SCALE, onnx_model

IMAGES_BCHW = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2), dtype=np.uint8)


def run(model: bytes, images_BCHW: np.ndarray = IMAGES_BCHW) -> np.ndarray:
    logits: np.ndarray = onnx_session(model).run(["logits"], {"image": images_BCHW})[0]
    return logits


def test_one_view_is_the_image_itself() -> None:
    model = onnx_model(offset=3.0)
    assert np.array_equal(run(averaged_over_views(model, shifted_grid(1, 2, 2, flip=True))), run(model))


def test_mirrored_view_is_averaged_with_the_image() -> None:
    model = onnx_model(offset=0.0)
    mirrored = run(model, np.ascontiguousarray(IMAGES_BCHW[..., ::-1]))
    found = run(averaged_over_views(model, shifted_grid(2, 2, 2, flip=True)))
    assert np.allclose(found, (run(model) + mirrored) / 2, atol=1e-5)


def test_a_moved_view_repeats_the_border() -> None:
    model = onnx_model(offset=0.0)
    views = [run(model, IMAGES_BCHW)]
    for rows, columns in (([0, 0], [0, 1]), ([0, 1], [0, 0]), ([0, 1], [1, 1]), ([1, 1], [0, 1])):
        views.append(run(model, np.ascontiguousarray(IMAGES_BCHW[:, :, rows][..., columns])))
    found = run(averaged_over_views(model, shifted_grid(5, 2, 2, flip=False)))
    assert np.allclose(found, np.mean(views, axis=0), atol=0.5 / SCALE)


def test_rows_do_not_depend_on_each_other() -> None:
    model = averaged_over_views(onnx_model(offset=0.0), shifted_grid(9, 2, 2, flip=True))
    alone = np.concatenate([run(model, IMAGES_BCHW[row : row + 1]) for row in range(5)])
    assert np.allclose(run(model), alone)


def test_jittered_views_begin_with_the_image_and_differ_by_little() -> None:
    y_HW, x_HW = np.meshgrid(*[(2 * np.arange(8) + 1) / 8 - 1] * 2, indexing="ij")
    image_HW2 = np.stack([x_HW, y_HW], axis=-1)
    grid_VHW2 = jittered_grid(50, 8, 8)
    assert np.allclose(grid_VHW2[0], image_HW2)
    off_V = np.abs(grid_VHW2 - image_HW2).max(axis=(1, 2, 3))
    # Two pixels of eight at the corners, where turning and scaling move most.
    assert off_V[1:].min() > 0 and off_V.max() < 0.5
    assert np.array_equal(grid_VHW2, jittered_grid(50, 8, 8))
    # Neither smaller nor to one side on the whole.
    assert np.allclose(grid_VHW2.mean(axis=0), image_HW2, atol=0.1)


@pytest.mark.parametrize("views", [0, 10_000])
def test_impossible_number_of_views_is_refused(views: int) -> None:
    with pytest.raises(ValueError, match=f"views is {views}"):
        shifted_grid(views, 8, 8, flip=True)


@pytest.mark.parametrize("flip", [False, True])
def test_no_two_of_all_views_are_the_same(flip: bool) -> None:
    most = max_shifted_views(flip)
    grid_VHW2 = shifted_grid(most, 8, 8, flip)
    assert len(np.unique(grid_VHW2.reshape(most, -1), axis=0)) == most
    with pytest.raises(ValueError, match=f"give 1 to {most}"):
        shifted_grid(most + 1, 8, 8, flip)
