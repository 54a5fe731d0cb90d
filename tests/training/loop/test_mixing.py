import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.loop.mixing import mix
from training.recipe import Augmentation

MIXUP, CUTMIX = Augmentation(mixup=0.4), Augmentation(cutmix=1.0)
BOTH = Augmentation(mixup=0.4, cutmix=1.0)


def _images(rows: int, height: int = 8, width: int = 12) -> Tensor:
    shape = (rows, 3, height, width)
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))


def _targets(rows: int) -> Tensor:
    return functional.one_hot(torch.arange(rows) % 10, 10).float()


def _mixed(images: Tensor, augmentation: Augmentation, step: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A whole batch with its own neighbours."""
    targets = _targets(len(images))
    return mix(images, images.roll(-1, 0), targets, targets.roll(-1, 0), augmentation, seed, 1, step)


@pytest.mark.parametrize("augmentation", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])
def test_how_a_batch_is_cut_among_workers_changes_nothing(augmentation: Augmentation) -> None:
    images, targets = _images(12), _targets(12)
    neighbours, their_targets = images.roll(-1, 0), targets.roll(-1, 0)
    for step in range(6):
        inputs, mixed_targets = _mixed(images, augmentation, step)
        for part in (slice(0, None, 3), slice(1, None, 3), slice(2, None, 3), slice(4, 6)):
            own, own_targets = mix(
                images[part], neighbours[part], targets[part], their_targets[part], augmentation, 0, 1, step
            )
            assert torch.equal(own, inputs[part])
            assert torch.equal(own_targets, mixed_targets[part])


def test_mixup_blends_images_and_targets_by_one_share() -> None:
    images = _images(10)
    for step in range(5):
        inputs, targets = _mixed(images, MIXUP, step)
        share = float(targets[0, 0])
        assert inputs.dtype == torch.uint8
        blend = images.double() * share + images.roll(-1, 0).double() * (1 - share)
        assert (inputs.double() - blend).abs().max() <= 0.5 + 1e-4
        torch.testing.assert_close(targets, _targets(10) * share + _targets(10).roll(-1, 0) * (1 - share))


def test_rounded_pixels_are_not_darker_or_lighter_on_average() -> None:
    images = _images(64, 32, 32)
    error = torch.zeros((), dtype=torch.float64)
    for step in range(8):
        inputs, targets = _mixed(images, MIXUP, step)
        share = float(targets[0, 0])
        error += (inputs.double() - images.double() * share - images.roll(-1, 0).double() * (1 - share)).mean()
    assert abs(float(error) / 8) < 0.002  # of 255 levels


def test_cutmix_pastes_one_rectangle_whose_area_is_the_partners_share() -> None:
    black, white = torch.zeros(4, 3, 20, 30, dtype=torch.uint8), torch.full((4, 3, 20, 30), 255, dtype=torch.uint8)
    own, other = torch.tensor([[1.0, 0.0]]).repeat(4, 1), torch.tensor([[0.0, 1.0]]).repeat(4, 1)
    sizes = []
    for step in range(60):
        inputs, targets = mix(black, white, own, other, CUTMIX, 0, 1, step)
        pasted = inputs == 255
        assert (pasted == pasted[0, 0]).all()
        y, x = np.nonzero(pasted[0, 0].numpy())
        if len(y):
            assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1)
        assert targets[0, 1] == pytest.approx(len(y) / 600, abs=1e-6)
        sizes.append(len(y) / 600)
    assert min(sizes) < 0.1 < 0.6 < max(sizes)


def test_the_share_is_of_the_beta_distribution() -> None:
    pixel = torch.zeros(2, 1, 1, 1, dtype=torch.uint8)
    shares = np.array([float(_mixed(pixel, Augmentation(mixup=0.4), step)[1][0, 0]) for step in range(2000)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * 1.8), rel=0.06)


def test_where_both_are_set_each_has_half_of_the_steps() -> None:
    black, white = torch.zeros(2, 1, 16, 16, dtype=torch.uint8), torch.full((2, 1, 16, 16), 255, dtype=torch.uint8)
    blended = 0
    for step in range(400):
        inputs, _ = mix(black, white, torch.eye(2), torch.eye(2), Augmentation(mixup=8.0, cutmix=1.0), 0, 1, step)
        blended += bool(((inputs > 0) & (inputs < 255)).any())
    assert 150 < blended < 250


def test_steps_epochs_and_seeds_are_mixed_differently() -> None:
    images = _images(4)
    made = [_mixed(images, MIXUP, step, seed)[1][0, 0].item() for step in range(3) for seed in range(3)]
    assert len(set(made)) == 9


def test_texts_are_refused() -> None:
    tokens = torch.ones(4, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"mixup and cutmix are for images .*, not for inputs \(4, 7\): leave"):
        mix(tokens, tokens, _targets(4), _targets(4), MIXUP, 0, 1, 0)
