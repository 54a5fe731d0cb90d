import numpy as np
import pytest
import torch

from tests.toys import IMAGES
from training.loop.augment import preparation
from training.recipe import Augmentation

# torchvision takes two seconds to import.
pytestmark = pytest.mark.slow

POLICIES = [Augmentation(policy="rand_augment"), Augmentation(policy="trivial_augment")]


def _photos(channels: int) -> torch.Tensor:
    """Smooth images, on which every change of brightness, contrast or place shows."""
    y, x = np.mgrid[:12, :16]
    rows = [np.clip(120 + 6 * y * (1 + c) + 3 * x - row, 0, 255) for row in range(24) for c in range(channels)]
    return torch.from_numpy(np.array(rows, dtype=np.uint8).reshape(24, channels, 12, 16))


@pytest.mark.parametrize("augmentation", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_changed_by_seed_epoch_and_row_alone(augmentation: Augmentation, channels: int) -> None:
    images, ids = _photos(channels), np.arange(24)
    prepare = preparation(IMAGES, augmentation, seed=0)
    whole = prepare(images, 1, ids)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    torch.manual_seed(5)
    assert torch.equal(prepare(images[1::3], 1, ids[1::3]), whole[1::3])
    assert not torch.equal(prepare(images, 2, ids), whole)
    changed = (whole != images).flatten(1).any(dim=1)
    assert changed.float().mean() > 0.5


@pytest.mark.parametrize("augmentation", POLICIES)
def test_the_global_generator_is_left_as_it_was(augmentation: Augmentation) -> None:
    prepare = preparation(IMAGES, augmentation, seed=0)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    prepare(_photos(3), 1, np.arange(24))
    assert torch.equal(torch.rand(4), expected)


def test_like_images_of_other_rows_are_changed_otherwise() -> None:
    images = _photos(3)[:1].repeat(40, 1, 1, 1)
    for augmentation in POLICIES:
        changed = preparation(IMAGES, augmentation, seed=0)(images, 1, np.arange(40))
        assert len(torch.unique(changed, dim=0)) > 20
