import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from training.loop.crops import ASPECT, CROP_DRAWS, crops
from training.loop.draws import uniforms
from training.models import torchvision_door

ROWS = 4000


def _crops(
    smallest: float, height: int, width: int, rows: int = ROWS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return crops(smallest, height, width, uniforms(0, 1, np.arange(rows), CROP_DRAWS))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 30), (64, 16)])
@pytest.mark.parametrize("smallest", [0.08, 0.5, 0.99])
def test_a_crop_lies_within_its_image_and_has_the_area_and_aspect_asked_for(
    height: int, width: int, smallest: float
) -> None:
    sizes, middles = _crops(smallest, height, width)
    assert (np.abs(middles) + sizes <= 1 + 1e-9).all()
    aspect = sizes[:, 0] * width / (sizes[:, 1] * height)
    assert aspect.min() >= ASPECT[0] - 1e-9
    assert aspect.max() <= ASPECT[1] + 1e-9
    areas = sizes.prod(axis=1)
    largest = (np.minimum((width, height), (height * ASPECT[1], width / ASPECT[0])) / (width, height)).prod()
    assert ((areas >= smallest - 1e-9) | (np.abs(areas - largest) < 1e-9)).all()


def test_where_no_try_fits_the_largest_part_in_the_middle_is_taken() -> None:
    sizes, middles = _crops(1.0, height=8, width=64, rows=50)
    np.testing.assert_allclose(sizes, np.tile([8 * ASPECT[1] / 64, 1.0], (50, 1)))
    assert (middles == 0).all()
    whole, middles = _crops(1.0, height=8, width=8, rows=50)
    assert (whole == 1).all()
    assert (middles == 0).all()


def test_crops_lie_anywhere() -> None:
    sizes, middles = _crops(0.2, 40, 40)
    room = 1 - sizes
    places = middles[room[:, 0] > 0.1] / room[room[:, 0] > 0.1]
    assert np.abs(places[:, 0].mean()) < 0.04
    assert places[:, 0].std() == pytest.approx(np.sqrt(1 / 3), rel=0.05)  # of what is uniform from -1 to 1
    assert np.abs(np.corrcoef(places.T)[0, 1]) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 300)])
def test_sizes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    theirs = torchvision_door.transforms().RandomResizedCrop
    image = torch.zeros(1, height, width)
    torch.manual_seed(0)
    drawn = theirs((8, 8), scale=(0.08, 1.0))
    boxes = np.array([[p["width"], p["height"]] for p in (drawn.make_params([image]) for _ in range(ROWS))])
    sizes, _ = _crops(0.08, height, width)
    for side, length in enumerate((width, height)):
        # To whole pixels, as theirs are.
        assert ks_2samp(np.rint(sizes[:, side] * length), boxes[:, side]).pvalue > 1e-3
