import numpy as np
import pytest
import torch

from tests.toys import IMAGES, TEXTS
from training.loop.augment import augment_images, preparation, trim_padding
from training.recipe import Augmentation


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _dots(rows: int, side: int = 9) -> torch.Tensor:
    images = torch.zeros(rows, 1, side, side, dtype=torch.uint8)
    images[:, :, side // 2, side // 2] = 200
    return images


def _disc(height: int, width: int, radius: float = 5.0) -> torch.Tensor:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return torch.from_numpy((np.clip(radius + 0.5 - distance, 0, 1) * 255).astype(np.uint8))[None, None]


def test_without_augmentation_images_are_left_alone() -> None:
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    assert preparation(IMAGES, Augmentation())(images, _generator()) is images


def test_the_same_generator_gives_the_same_images() -> None:
    prepare = preparation(IMAGES, Augmentation(shift=0.2, rotate_degrees=20, scale=0.2, flip=True))
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    first = prepare(images, _generator(1))
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
    assert torch.equal(prepare(images, _generator(1)), first)
    assert not torch.equal(prepare(images, _generator(2)), first)


def test_shifts_are_of_whole_pixels_and_at_most_the_share_asked_for() -> None:
    moved = augment_images(_dots(400), Augmentation(shift=2 / 9), _generator())
    rows, _, y, x = torch.nonzero(moved, as_tuple=True)
    assert len(rows) == 400  # each image still has its one sharp dot
    assert (moved[moved > 0] == 200).all()
    assert set((y - 4).tolist()) == set((x - 4).tolist()) == {-2, -1, 0, 1, 2}


def test_a_shift_brings_in_black() -> None:
    white = torch.full((50, 1, 8, 8), 255, dtype=torch.uint8)
    moved = augment_images(white, Augmentation(shift=0.25), _generator())
    assert set(moved.unique().tolist()) == {0, 255}


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.arange(32, dtype=torch.uint8).reshape(1, 1, 4, 8).repeat(400, 1, 1, 1)
    moved = augment_images(images, Augmentation(flip=True), _generator())
    mirrored = (moved == images.flip(3)).flatten(1).all(dim=1)
    kept = (moved == images).flatten(1).all(dim=1)
    assert (mirrored ^ kept).all()
    assert 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 40), (40, 16)])
def test_a_rotation_leaves_a_disc_a_disc(height: int, width: int) -> None:
    disc = _disc(height, width).repeat(40, 1, 1, 1)
    moved = augment_images(disc, Augmentation(rotate_degrees=90), _generator())
    difference = (moved.float() - disc.float()).abs().mean(dim=(1, 2, 3))
    # Resampling blurs the edge by about 2 levels a pixel; a shear would change whole parts of it.
    assert difference.max() < 4.0


def test_a_rotation_turns_what_is_no_disc() -> None:
    bar = torch.zeros(40, 1, 21, 21, dtype=torch.uint8)
    bar[:, :, 10] = 255
    moved = augment_images(bar, Augmentation(rotate_degrees=90), _generator())
    heights = (moved > 127).any(dim=3).sum(dim=2).flatten()
    assert heights.max() > 15
    assert heights.min() < 8


def test_a_zoom_changes_the_size_within_its_limit() -> None:
    disc = _disc(31, 31).repeat(300, 1, 1, 1)
    moved = augment_images(disc, Augmentation(scale=0.3), _generator())
    zoom = (moved.float().sum(dim=(1, 2, 3)) / disc[0].float().sum()).sqrt()
    assert 0.74 < zoom.min() < 0.85
    assert 1.2 < zoom.max() < 1.47


def test_columns_that_pad_every_row_are_trimmed() -> None:
    tokens = torch.tensor([[5, 6, 0, 0, 0], [7, 8, 9, 0, 0]])
    assert trim_padding(tokens, pad_id=0).tolist() == [[5, 6, 0], [7, 8, 9]]
    assert trim_padding(torch.zeros(2, 4, dtype=torch.int64), pad_id=0).shape == (2, 1)


def test_texts_are_trimmed_and_otherwise_left_alone() -> None:
    tokens = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]])
    prepare = preparation(TEXTS, Augmentation(shift=0.5, flip=True))
    assert prepare(tokens, _generator()).tolist() == [[5, 6], [7, 0]]
