"""Corruptions: what befalls a photograph on its way to a model, in five severities.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(2019): eight of their fifteen, with the parameters of their CIFAR-10-C for small images and of their ImageNet-C for
large ones; lengths grow with the image from the size for which they were published. The fog is made of smooth noise
in octaves, as theirs is, but not by their midpoint displacement, so figures do not compare with theirs to the digit.

Shape suffixes: B batch, C channels, H height, W width.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.float32]
Change = Callable[[Images, Any, float, np.random.Generator], Images]

SEVERITIES = (1, 2, 3, 4, 5)
# Up to this side CIFAR-10-C's parameters, made for 32 pixels, hold; above it ImageNet-C's, made for 224.
MAX_SMALL_SIDE = 64
SMALL_SIDE, LARGE_SIDE = 32, 224


def corrupt(
    images_BCHW: NDArray[np.uint8], name: str, severity: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """uint8 [B, C, H, W] -> the same, corrupted; what is drawn comes from `generator` alone.

    Raises ValueError on an unknown name or severity.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name!r} is not one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}: it runs from {SEVERITIES[0]} to {SEVERITIES[-1]}")
    change, small, large = CORRUPTIONS[name]
    side = min(images_BCHW.shape[2:])
    parameters, published = (small, SMALL_SIDE) if side <= MAX_SMALL_SIDE else (large, LARGE_SIDE)
    images = (images_BCHW / 255).astype(np.float32)
    changed = change(images, parameters[severity - 1], side / published, generator)
    return np.round(np.clip(changed, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(images: Images, sigma: float, scale: float, generator: np.random.Generator) -> Images:
    return images + sigma * generator.standard_normal(images.shape, dtype=np.float32)


def _shot_noise(images: Images, photons: float, scale: float, generator: np.random.Generator) -> Images:
    return (generator.poisson(images * photons) / photons).astype(np.float32)


def _gaussian_blur(images: Images, sigma: float, scale: float, generator: np.random.Generator) -> Images:
    from scipy.ndimage import gaussian_filter

    blurred: Images = gaussian_filter(images, (0, 0, sigma * scale, sigma * scale), mode="nearest")
    return blurred


def _fog(images: Images, parameters: tuple[float, float], scale: float, generator: np.random.Generator) -> Images:
    amount, decay = parameters
    fog_B1HW = _clouds(images.shape, decay, generator)
    brightest_B111 = images.max(axis=(1, 2, 3), keepdims=True)
    foggy: Images = (images + amount * fog_B1HW) * brightest_B111 / (brightest_B111 + amount)
    return foggy


def _brightness(images: Images, amount: float, scale: float, generator: np.random.Generator) -> Images:
    # Raising V of HSV by `amount` scales all channels alike, and black, which has no hue, becomes grey.
    value_B1HW = images.max(axis=1, keepdims=True)
    raised_B1HW = np.minimum(value_B1HW + np.float32(amount), 1)
    ratio_B1HW = raised_B1HW / np.maximum(value_B1HW, 1e-6)
    brighter: Images = np.where(value_B1HW > 0, images * ratio_B1HW, raised_B1HW)
    return brighter


def _contrast(images: Images, factor: float, scale: float, generator: np.random.Generator) -> Images:
    means_BC11 = images.mean(axis=(2, 3), keepdims=True)
    flatter: Images = (images - means_BC11) * factor + means_BC11
    return flatter


def _pixelate(images: Images, share: float, scale: float, generator: np.random.Generator) -> Images:
    height, width = images.shape[2:]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    box = Image.Resampling.BOX
    return _through_pillow(images, lambda image: image.resize(small, box).resize((width, height), box))


def _jpeg(images: Images, quality: int, scale: float, generator: np.random.Generator) -> Images:
    def compress(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _through_pillow(images, compress)


def _through_pillow(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    changed = np.empty_like(images)
    for row, image_CHW in enumerate(np.round(images * 255).astype(np.uint8)):
        grey = len(image_CHW) == 1
        after = np.asarray(change(Image.fromarray(image_CHW[0] if grey else image_CHW.transpose(1, 2, 0))))
        changed[row] = (after[None] if grey else after.transpose(2, 0, 1)) / np.float32(255)
    return changed


def _clouds(shape: tuple[int, ...], decay: float, generator: np.random.Generator) -> Images:
    """Smooth noise [B, 1, H, W] in 0..1: grids each twice as fine as the last, each `decay` times as faint."""
    from scipy.ndimage import zoom

    batch, _, height, width = shape
    side = max(height, width)
    field_BHW = np.zeros((batch, side, side), np.float32)
    cells, amplitude = 2, 1.0
    while cells <= side:
        grid_BGG = generator.standard_normal((batch, cells, cells), dtype=np.float32)
        field_BHW += amplitude * zoom(grid_BGG, (1, side / cells, side / cells), order=1, grid_mode=False)
        cells, amplitude = cells * 2, amplitude / decay
    field_BHW -= field_BHW.min(axis=(1, 2), keepdims=True)
    field_BHW /= np.maximum(field_BHW.max(axis=(1, 2), keepdims=True), 1e-6)
    return field_BHW[:, None, :height, :width]


# Name -> what is done, CIFAR-10-C's parameters and ImageNet-C's, by severity.
CORRUPTIONS: dict[str, tuple[Change, tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot noise": (_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "fog": (
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
