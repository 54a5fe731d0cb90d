"""What is done to a training batch before the model sees it: random image changes, or trimming texts.

Shape suffixes: B batch, C channels, H height, W width, L tokens.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from training.encoding import Encoding, TextEncoding
from training.recipe import Augmentation

Prepare = Callable[[Tensor, torch.Generator], Tensor]


def preparation(encoding: Encoding, augmentation: Augmentation) -> Prepare:
    """The function of (inputs, generator) that training applies to each batch."""
    if isinstance(encoding, TextEncoding):
        pad_id = encoding.pad_id
        return lambda tokens_BL, generator: trim_padding(tokens_BL, pad_id)
    if augmentation == Augmentation():
        return lambda images_BCHW, generator: images_BCHW
    return lambda images_BCHW, generator: augment_images(images_BCHW, augmentation, generator)


def trim_padding(tokens_BL: Tensor, pad_id: int) -> Tensor:
    """Drop the columns that are padding in every row; at least one stays."""
    longest = int((tokens_BL != pad_id).sum(dim=1).max())
    return tokens_BL[:, : max(1, longest)]


def augment_images(images_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """uint8 images -> uint8 images, each under its own random rotation, zoom, shift and flip; outside is 0."""
    rows = len(images_BCHW)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(rows, generator=generator) * 2 - 1) * limit

    angle_B = uniform(math.radians(augmentation.rotate_degrees))
    zoom_B = 1 + uniform(augmentation.scale)
    # affine_grid's coordinates run from -1 to 1: a share of the side is twice as much there.
    shift_2B = torch.stack([uniform(2 * augmentation.shift), uniform(2 * augmentation.shift)])
    flip_B = torch.ones(rows)
    if augmentation.flip:
        flip_B = torch.where(torch.rand(rows, generator=generator) < 0.5, -1.0, 1.0)
    if not (augmentation.rotate_degrees or augmentation.scale):
        # Whole-pixel shifts keep the images sharp; a zero-degree resampling would blur them.
        half_side = torch.tensor([images_BCHW.shape[3] / 2, images_BCHW.shape[2] / 2])
        shift_2B = (shift_2B * half_side[:, None]).round() / half_side[:, None]
    cosine_B, sine_B = angle_B.cos() * zoom_B, angle_B.sin() * zoom_B
    # Both sides run from -1 to 1 there, so what turns from one axis to the other is scaled by their ratio.
    ratio = images_BCHW.shape[2] / images_BCHW.shape[3]
    matrix_B23 = torch.stack(
        [
            torch.stack([cosine_B * flip_B, -sine_B * ratio, shift_2B[0]], dim=1),
            torch.stack([sine_B * flip_B / ratio, cosine_B, shift_2B[1]], dim=1),
        ],
        dim=1,
    ).to(images_BCHW.device)
    grid = functional.affine_grid(matrix_B23, list(images_BCHW.shape), align_corners=False)
    moved = functional.grid_sample(images_BCHW.to(torch.float32), grid, mode="bilinear", align_corners=False)
    return moved.round().to(torch.uint8)
