from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tests.toys import TEXTS
from tests.training.loop.augmenting import Augment
from training.loop import augment
from training.loop.augment import trim_padding
from training.loop.draws import uniforms
from training.recipe import Augmentation


def _augmented(images: torch.Tensor, augmentation: Augmentation, seed: int = 0, epoch: int = 1) -> torch.Tensor:
    return Augment(augmentation, seed)(images, epoch, np.arange(len(images)))


def _noise(rows: int, channels: int = 1, height: int = 8, width: int = 8) -> torch.Tensor:
    shape = (rows, channels, height, width)
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8))


def _dots(rows: int, side: int = 9) -> torch.Tensor:
    images = torch.zeros(rows, 1, side, side, dtype=torch.uint8)
    images[:, :, side // 2, side // 2] = 200
    return images


def _disc(height: int, width: int, radius: float = 5.0) -> torch.Tensor:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return torch.from_numpy((np.clip(radius + 0.5 - distance, 0, 1) * 255).astype(np.uint8))[None, None]


def test_without_augmentation_images_are_left_alone() -> None:
    images = _noise(5)
    assert _augmented(images, Augmentation()) is images


EVERYTHING = Augmentation(crop=0.5, shift=0.2, rotate_degrees=20, scale=0.2, flip=True, erase=0.5)
WHOLE_PIXELS = Augmentation(shift=0.2, flip=True)
CROPPED = Augmentation(crop=0.3, flip=True)


@pytest.mark.parametrize(
    "augmentation", [EVERYTHING, WHOLE_PIXELS, CROPPED], ids=["everything", "whole_pixels", "cropped"]
)
def test_what_befalls_a_row_depends_on_seed_epoch_and_row_alone(augmentation: Augmentation) -> None:
    images = _noise(64, channels=3)
    prepare = Augment(augmentation)
    whole = prepare(images, 1, np.arange(64))
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    torch.rand(3)
    np.random.random(3)  # what else draws from global generators must not matter
    for ids in (np.arange(64)[1::2], np.arange(64)[::-1], np.array([7])):
        assert torch.equal(prepare(images[ids.copy()], 1, ids), whole[ids.copy()])
    assert not torch.equal(prepare(images, 2, np.arange(64)), whole)
    assert not torch.equal(_augmented(images, augmentation, seed=1), whole)


def test_shifts_and_flips_move_whole_pixels_as_slices_would() -> None:
    images, ids = _noise(60, channels=3, height=9, width=12), np.arange(60)
    moved = Augment(Augmentation(shift=0.25, flip=True))(images, 1, ids)
    draws = uniforms(0, 1, ids, 5)
    for image, result, (x, y, _, _, flip) in zip(images.numpy(), moved.numpy(), draws, strict=True):
        right, down = round((2 * float(x) - 1) * 0.25 * 12), round((2 * float(y) - 1) * 0.25 * 9)
        bordered = np.pad(image, ((0, 0), (9, 9), (12, 12)))
        expected = bordered[:, 9 + down : 18 + down, 12 + right : 24 + right]
        assert (result == (expected[:, :, ::-1] if flip < 0.5 else expected)).all()


def test_shifts_are_of_whole_pixels_and_at_most_the_share_asked_for() -> None:
    moved = _augmented(_dots(400), Augmentation(shift=2 / 9))
    rows, _, y, x = torch.nonzero(moved, as_tuple=True)
    assert len(rows) == 400  # each image still has its one sharp dot
    assert (moved[moved > 0] == 200).all()
    assert set((y - 4).tolist()) == set((x - 4).tolist()) == {-2, -1, 0, 1, 2}


def test_a_shift_brings_in_black() -> None:
    white = torch.full((50, 1, 8, 8), 255, dtype=torch.uint8)
    moved = _augmented(white, Augmentation(shift=0.25))
    assert set(moved.unique().tolist()) == {0, 255}


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.arange(32, dtype=torch.uint8).reshape(1, 1, 4, 8).repeat(400, 1, 1, 1)
    moved = _augmented(images, Augmentation(flip=True))
    mirrored = (moved == images.flip(3)).flatten(1).all(dim=1)
    kept = (moved == images).flatten(1).all(dim=1)
    assert (mirrored ^ kept).all()
    assert 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 40), (40, 16)])
def test_a_rotation_leaves_a_disc_a_disc(height: int, width: int) -> None:
    disc = _disc(height, width).repeat(40, 1, 1, 1)
    moved = _augmented(disc, Augmentation(rotate_degrees=90))
    difference = (moved.float() - disc.float()).abs().mean(dim=(1, 2, 3))
    # Resampling blurs the edge by about 2 levels a pixel; a shear would change whole parts of it.
    assert difference.max() < 4.0


def test_a_rotation_turns_what_is_no_disc() -> None:
    bar = torch.zeros(40, 1, 21, 21, dtype=torch.uint8)
    bar[:, :, 10] = 255
    moved = _augmented(bar, Augmentation(rotate_degrees=90))
    heights = (moved > 127).any(dim=3).sum(dim=2).flatten()
    assert heights.max() > 15
    assert heights.min() < 8


def test_a_zoom_changes_the_size_within_its_limit() -> None:
    disc = _disc(31, 31).repeat(300, 1, 1, 1)
    moved = _augmented(disc, Augmentation(scale=0.3))
    zoom = (moved.float().sum(dim=(1, 2, 3)) / disc[0].float().sum()).sqrt()
    assert 0.74 < zoom.min() < 0.85
    assert 1.2 < zoom.max() < 1.47


def _placed(sizes: tuple[float, float], middle: tuple[float, float]) -> Callable[..., tuple[object, object]]:
    """In the place of `crops`: the same for every image."""

    def crops(smallest: float, height: int, width: int, draws: NDArray[np.float32]) -> tuple[object, object]:
        return np.tile(sizes, (len(draws), 1)), np.tile(middle, (len(draws), 1))

    return crops


def test_a_crop_is_enlarged_to_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part from column 4 to 12 of 16 and from row 6 to 12 of 12, as torch enlarges it."""
    monkeypatch.setattr(augment, "crops", _placed((0.5, 0.5), (0.0, 0.5)))
    images = functional.interpolate(_noise(6, 3, 3, 4).float(), (12, 16), mode="bilinear").to(torch.uint8)
    expected = functional.interpolate(images[:, :, 6:12, 4:12].float(), (12, 16), mode="bilinear")
    found = _augmented(images, Augmentation(crop=0.25)).float()
    # Not the outermost pixels, which know their neighbours outside of the part.
    difference = (found - expected)[:, :, 1:-1, 1:-1].abs()
    assert difference.max() <= 0.5 + 1e-3


def test_a_crop_is_what_is_turned_and_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "crops", _placed((0.5, 0.5), (-0.5, 0.5)))
    images = _noise(40, 1, 8, 8)
    cropped = _augmented(images, Augmentation(crop=0.25))
    flipped = _augmented(images, Augmentation(crop=0.25, flip=True))
    either = (flipped == cropped).flatten(1).all(1), (flipped == cropped.flip(3)).flatten(1).all(1)
    assert (either[0] ^ either[1]).all()
    assert 5 < int(either[1].sum()) < 35
    shrunk = _augmented(images, Augmentation(crop=0.25, rotate_degrees=1e-6))
    assert ((shrunk.int() - cropped.int()).abs() <= 1)[:, :, 1:-1, 1:-1].all()


def test_a_crop_alone_brings_in_no_black() -> None:
    white = torch.full((200, 3, 12, 18), 255, dtype=torch.uint8)
    assert (_augmented(white, Augmentation(crop=0.3, flip=True)) == 255).all()


def test_crops_show_as_much_as_asked_for() -> None:
    columns = torch.arange(0, 256, 4, dtype=torch.uint8).expand(600, 1, 64, 64).contiguous()
    seen = _augmented(columns, Augmentation(crop=0.4)).float()[:, 0, 32]
    share = (seen[:, -1] - seen[:, 0]) / 252
    # Sides from the root of (0.4 * 3/4) on, to all of it.
    assert 0.5 < share.min() < 0.62
    assert 0.97 < share.max() <= 1


def test_as_many_images_as_asked_for_lose_one_rectangle() -> None:
    white = torch.full((1000, 3, 20, 30), 255, dtype=torch.uint8)
    erased = _augmented(white, Augmentation(erase=0.3))
    assert set(erased.unique().tolist()) == {0, 255}
    areas, ratios = [], []
    for gone in (erased == 0).numpy():
        assert (gone == gone[0]).all()  # in every channel alike
        if not gone.any():
            continue
        y, x = np.nonzero(gone[0])
        high, wide = np.ptp(y) + 1, np.ptp(x) + 1
        assert gone[0].sum() == high * wide
        areas.append(high * wide / 600)
        ratios.append(high / wide)
    assert 230 < len(areas) < 370
    assert min(areas) < 0.04 < 0.3 < max(areas) < 0.36
    assert 0.4 < np.mean(np.array(ratios) > 1) < 0.6


def test_every_pixel_may_be_erased() -> None:
    white = torch.full((1000, 1, 10, 10), 255, dtype=torch.uint8)
    assert (_augmented(white, Augmentation(erase=1.0)) == 0).any(dim=0).all()


def test_columns_that_pad_every_row_are_trimmed() -> None:
    tokens = torch.tensor([[5, 6, 0, 0, 0], [7, 8, 9, 0, 0]])
    assert trim_padding(tokens, pad_id=0).tolist() == [[5, 6, 0], [7, 8, 9]]
    assert trim_padding(torch.zeros(2, 4, dtype=torch.int64), pad_id=0).shape == (2, 1)


def test_texts_are_trimmed_and_otherwise_left_alone() -> None:
    tokens = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]])
    prepare = Augment(Augmentation(shift=0.5, flip=True, erase=1.0), encoding=TEXTS)
    assert prepare(tokens, 1, np.arange(2)).tolist() == [[5, 6], [7, 0]]
