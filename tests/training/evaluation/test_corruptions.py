import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt

Images = NDArray[np.uint8]


def _photographs(rows: int = 6, channels: int = 3, height: int = 32, width: int = 32) -> Images:
    """Smooth shapes over the whole range, as photographs have, and not as noise has."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=(rows, channels, height, width))
    smooth = gaussian_filter(noise, (0, 0, height / 12, width / 12))
    smooth -= smooth.min(axis=(1, 2, 3), keepdims=True)
    return np.round(200 * smooth / smooth.max(axis=(1, 2, 3), keepdims=True) + 20).astype(np.uint8)


def _corrupt(images: Images, name: str, severity: int, seed: int = 0) -> Images:
    return corrupt(images, name, severity, np.random.default_rng(seed))


def _change(images: Images, name: str, severity: int) -> float:
    return float(np.abs(_corrupt(images, name, severity).astype(float) - images).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 32, 32), (2, 1, 28, 20), (1, 3, 96, 128), (1, 1, 1, 1)])
def test_shape_and_type_are_kept_and_the_input_is_left_alone(name: str, shape: tuple[int, int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = images.copy()
    for severity in SEVERITIES:
        changed = _corrupt(images, name, severity)
        assert (changed.shape, changed.dtype) == (shape, np.uint8)
    assert (images == before).all()


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"fog"}))
@pytest.mark.parametrize("side", [32, 128])
def test_a_heavier_severity_changes_more(name: str, side: int) -> None:
    images = _photographs(height=side, width=side)
    changes = [_change(images, name, severity) for severity in (1, 3, 5)]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_images_to_the_bit(name: str) -> None:
    images = _photographs()
    assert (_corrupt(images, name, 3) == _corrupt(images, name, 3)).all()
    other = _corrupt(images, name, 3, seed=1)
    assert (other != _corrupt(images, name, 3)).any() == (name in ("gaussian noise", "shot noise", "fog"))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_black_and_white_images_raise_no_warning(name: str) -> None:
    for value in (0, 255):
        _corrupt(np.full((2, 3, 16, 16), value, np.uint8), name, 5)


def test_noise_has_the_published_strength() -> None:
    grey = np.full((4, 1, 64, 64), 128, np.uint8)
    for severity, sigma in ((1, 0.04), (5, 0.10)):
        noise = _corrupt(grey, "gaussian noise", severity).astype(float) - 128
        assert noise.std() / 255 == pytest.approx(sigma, rel=0.05)
        assert noise.mean() / 255 == pytest.approx(0, abs=0.005)
    shot = _corrupt(grey, "shot noise", 5).astype(float) / 255
    assert shot.var() == pytest.approx(0.5 / 50, rel=0.1)


def test_brightness_adds_to_the_value_and_keeps_the_hue() -> None:
    colour = np.array([100, 50, 25], np.uint8).reshape(1, 3, 1, 1) * np.ones((1, 1, 4, 4), np.uint8)
    brighter = _corrupt(colour, "brightness", 5)[0, :, 0, 0]
    assert brighter[0] == pytest.approx(100 + 0.3 * 255, abs=0.51)
    assert brighter[0] / brighter[1] == pytest.approx(2, rel=0.02)
    assert _corrupt(np.zeros((1, 3, 2, 2), np.uint8), "brightness", 5).min() == pytest.approx(0.3 * 255, abs=0.51)


def test_contrast_keeps_the_mean_and_shrinks_the_spread_as_published() -> None:
    images = _photographs()
    flat = _corrupt(images, "contrast", 5)
    assert flat.mean(axis=(2, 3)) == pytest.approx(images.mean(axis=(2, 3)), abs=0.6)
    assert flat.std(axis=(2, 3)) == pytest.approx(0.15 * images.std(axis=(2, 3)), rel=0.1)


def test_blur_grows_with_the_image_it_is_measured_on() -> None:
    """One white pixel spreads over the same share of a side, whatever the side."""
    widths = []
    for side in (128, 256):
        image = np.zeros((1, 1, side, side), np.uint8)
        image[..., side // 2 - side // 16 : side // 2 + side // 16] = 255
        row = _corrupt(image, "blur", 5)[0, 0, 0].astype(float)
        widths.append(float(((row > 25) & (row < 230)).sum()) / side)
    assert widths[0] == pytest.approx(widths[1], rel=0.2)


def test_pixelate_leaves_fewer_different_pixels() -> None:
    image = np.arange(64 * 64, dtype=np.uint8).reshape(1, 1, 64, 64)
    image[0, 0] = np.arange(64)
    assert len(np.unique(_corrupt(image, "pixelate", 5)[0, 0, 0])) == int(64 * 0.65)


@pytest.mark.parametrize("side", [32, 128])
def test_a_heavier_fog_leaves_less_to_be_seen(side: int) -> None:
    images = _photographs(rows=40, height=side, width=side)
    likeness = [np.corrcoef(images.ravel(), _corrupt(images, "fog", severity).ravel())[0, 1] for severity in (1, 3, 5)]
    assert 1 > likeness[0] > likeness[1] > likeness[2]


def test_fog_is_clouds_and_no_noise() -> None:
    foggy = _corrupt(np.full((8, 1, 64, 64), 60, np.uint8), "fog", 3).astype(float)
    spread = foggy.std(axis=(1, 2, 3)).mean()
    # Of independent pixels neighbours differ by 1.13 standard deviations in the mean.
    assert np.abs(np.diff(foggy, axis=3)).mean() < 0.5 * spread
    assert spread > 1


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="corruption 'snow' is not one of gaussian noise"):
        _corrupt(_photographs(1), "snow", 1)
    with pytest.raises(ValueError, match="severity is 6: it runs from 1 to 5"):
        _corrupt(_photographs(1), "fog", 6)
