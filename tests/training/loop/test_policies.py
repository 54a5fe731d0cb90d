from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.training.loop.augmenting import Augment
from training.loop.policies import Policy
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
    prepare = Augment(augmentation)
    whole = prepare(images, 1, ids)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    torch.manual_seed(5)
    assert torch.equal(prepare(images[1::3], 1, ids[1::3]), whole[1::3])
    assert not torch.equal(prepare(images, 2, ids), whole)
    changed = (whole != images).flatten(1).any(dim=1)
    assert changed.float().mean() > 0.5


@pytest.mark.parametrize("augmentation", POLICIES)
def test_threads_that_draw_meanwhile_change_nothing(augmentation: Augmentation) -> None:
    """As dropout in the training thread and other loading threads do."""
    images, ids = _photos(3).repeat(4, 1, 1, 1), np.arange(96)
    prepare = Augment(augmentation)
    expected = prepare(images, 1, ids)
    with ThreadPoolExecutor(2) as threads:
        loading = [threads.submit(prepare, images, 1, ids) for _ in range(6)]
        while not all(one.done() for one in loading):
            torch.rand(8)
    assert all(torch.equal(one.result(), expected) for one in loading)


def test_every_operation_of_torchvision_comes_up_with_both_signs() -> None:
    policy = Policy("trivial_augment")
    seen: dict[str, set[float]] = {}

    def note(image: torch.Tensor, name: str, magnitude: float, **rest: object) -> torch.Tensor:
        seen.setdefault(name, set()).add(magnitude)
        return image

    policy._change._apply_image_or_video_transform = note
    images = torch.zeros(4000, 1, 2, 2, dtype=torch.uint8)
    policy(images, np.random.default_rng(0).random((4000, policy.draws), dtype=np.float32))
    space = policy._change._AUGMENTATION_SPACE
    assert seen.keys() == space.keys()
    for name, (magnitudes, is_signed) in space.items():
        steps = magnitudes(31, 2, 2)
        wanted = {0.0} if steps is None else {float(step) for step in steps}
        assert {abs(magnitude) for magnitude in seen[name]} == wanted, name
        assert (min(seen[name]) < 0) == is_signed, name


@pytest.mark.parametrize("augmentation", POLICIES)
def test_the_global_generator_is_left_as_it_was(augmentation: Augmentation) -> None:
    prepare = Augment(augmentation)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    prepare(_photos(3), 1, np.arange(24))
    assert torch.equal(torch.rand(4), expected)


def test_like_images_of_other_rows_are_changed_otherwise() -> None:
    images = _photos(3)[:1].repeat(40, 1, 1, 1)
    for augmentation in POLICIES:
        changed = Augment(augmentation)(images, 1, np.arange(40))
        assert len(torch.unique(changed, dim=0)) > 20
