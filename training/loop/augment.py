"""What is done to a training batch before the model sees it: random image changes, or trimming texts.

What befalls a row is drawn for (seed, epoch, row): whoever reads it, and beside which others, it comes out the same.

Shape suffixes: B batch, C channels, H height, W width, L tokens, D draws.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.encoding import Encoding, TextEncoding
from training.loop.crops import CROP_DRAWS, crops
from training.loop.draws import uniforms
from training.loop.placement import place
from training.loop.policies import Policy
from training.recipe import Augmentation

# (inputs [B, ...], epoch, the numbers of their rows [B]) -> inputs, changed, on the same device.
Change = Callable[[Tensor, int, NDArray[np.int64]], Tensor]
# Streams of draws: what one change draws tells nothing of another's.
_MOVE, _POLICY, _ERASE = 0, 1, 2
MOVE_DRAWS = 5  # shifts along both sides, angle, zoom, flip; those of a crop follow
# The area of a blanked rectangle, as a share of the image, and its height over its width (Zhong et al. 2017).
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)


@dataclass(frozen=True)
class Preparation:
    """What training does to each batch, in order: `on_cpu` where rows are read, then `on_device`, where the model is.

    On a CPU these are one place.
    """

    on_cpu: tuple[Change, ...]
    on_device: tuple[Change, ...]


def preparation(encoding: Encoding, augmentation: Augmentation, seed: int) -> Preparation:
    """Texts are trimmed; images are moved, changed by a policy, erased.

    A policy goes image by image, which keeps the thread that drives a GPU from driving it: it is for the CPU, and so is
    what comes before it.
    """
    if isinstance(encoding, TextEncoding):
        pad_id = encoding.pad_id
        return Preparation((lambda tokens_BL, epoch, ids_B: trim_padding(tokens_BL, pad_id),), ())
    changes: list[Change] = []
    on_cpu = 0
    if augmentation.flip or augmentation.shift or _resamples(augmentation):
        draws = MOVE_DRAWS + (CROP_DRAWS if augmentation.crop else 0)
        changes.append(lambda images, epoch, ids: move(images, augmentation, uniforms(seed, epoch, ids, draws, _MOVE)))
    if augmentation.policy != "none":
        policy = Policy(augmentation.policy)
        changes.append(lambda images, epoch, ids: policy(images, uniforms(seed, epoch, ids, policy.draws, _POLICY)))
        on_cpu = len(changes)
    if augmentation.erase:
        changes.append(
            lambda images, epoch, ids: erase(images, augmentation.erase, uniforms(seed, epoch, ids, 5, _ERASE))
        )
    return Preparation(tuple(changes[:on_cpu]), tuple(changes[on_cpu:]))


def prepare(changes: Sequence[Change], inputs: Tensor, epoch: int, ids_B: NDArray[np.int64]) -> Tensor:
    """`inputs` [B, ...], the rows `ids_B`, as they are for `epoch` after these changes, one after the other."""
    for change in changes:
        inputs = change(inputs, epoch, ids_B)
    return inputs


def trim_padding(tokens_BL: Tensor, pad_id: int) -> Tensor:
    """Drop the columns that are padding in every row; at least one stays."""
    longest = int((tokens_BL != pad_id).sum(dim=1).max())
    return tokens_BL[:, : max(1, longest)]


def _resamples(augmentation: Augmentation) -> bool:
    """Whether pixels come to lie between those that there were."""
    return bool(augmentation.crop or augmentation.rotate_degrees or augmentation.scale)


def move(images_BCHW: Tensor, augmentation: Augmentation, draws_BD: NDArray[np.float32]) -> Tensor:
    """uint8 images -> uint8 images, each under its own crop, rotation, zoom, shift and flip; what comes in is 0."""
    spread_B4 = draws_BD[:, :4].astype(np.float64) * 2 - 1
    shift_B2 = spread_B4[:, :2] * augmentation.shift
    flipped_B = augmentation.flip & (draws_BD[:, 4] < 0.5)
    if not _resamples(augmentation):
        # Whole-pixel shifts keep the images sharp, where a resampling would blur them, and take a fifth of its time.
        return _shifted(images_BCHW, shift_B2, augmentation.shift, flipped_B)
    height, width = images_BCHW.shape[2:]
    angle_B = spread_B4[:, 2] * math.radians(augmentation.rotate_degrees)
    zoom_B = 1 + spread_B4[:, 3] * augmentation.scale
    matrix_B23 = _moves(shift_B2, angle_B, zoom_B, flipped_B, height / width)
    comes_in = augmentation.shift or augmentation.rotate_degrees or augmentation.scale
    if augmentation.crop:
        sizes_B2, middles_B2 = crops(augmentation.crop, height, width, draws_BD[:, MOVE_DRAWS:])
        matrix_B23 *= sizes_B2[:, :, None]
        matrix_B23[:, :, 2] += middles_B2
    # A crop alone stays within the image, whose edges would darken where half a pixel beyond them counts as 0.
    return _resampled(images_BCHW, matrix_B23, "zeros" if comes_in else "border")


def _shifted(images_BCHW: Tensor, shift_B2: NDArray[np.float64], limit: float, flipped_B: NDArray[np.bool_]) -> Tensor:
    """Shifts are shares of the sides, width before height, at most `limit`; each is rounded to whole pixels."""
    rows, channels, height, width = images_BCHW.shape
    high, wide = round(limit * height), round(limit * width)
    shift_x_B = np.rint(shift_B2[:, 0] * width).astype(np.int64) + wide
    shift_y_B = np.rint(shift_B2[:, 1] * height).astype(np.int64) + high
    x_BW = shift_x_B[:, None] + np.where(flipped_B[:, None], np.arange(width)[::-1], np.arange(width))
    y_BH = shift_y_B[:, None] + np.arange(height)
    device = images_BCHW.device
    # Where each pixel comes from, within the image and a border as wide as the largest shift.
    first_BH = place(y_BH * (width + 2 * wide), device)
    source_BHW = first_BH[:, :, None] + place(x_BW, device)[:, None, :]
    bordered = functional.pad(images_BCHW, (wide, wide, high, high)).flatten(2)
    moved = bordered.gather(2, source_BHW.view(rows, 1, -1).expand(-1, channels, -1))
    return moved.view(images_BCHW.shape)


def _moves(
    shift_B2: NDArray[np.float64],
    angle_B: NDArray[np.float64],
    zoom_B: NDArray[np.float64],
    flipped_B: NDArray[np.bool_],
    ratio: float,
) -> NDArray[np.float64]:
    """Matrices [B, 2, 3] from where a pixel goes to where it comes from, each side running from -1 to 1.

    Shifts are shares of the sides, width before height; angles are radians; `ratio` is the height over the width.
    """
    cosine_B, sine_B = np.cos(angle_B) * zoom_B, np.sin(angle_B) * zoom_B
    flip_B = np.where(flipped_B, -1.0, 1.0)
    # A share of a side is twice as much of a run from -1 to 1, and what turns from one axis to the other is scaled by
    # their ratio.
    matrix_B6 = np.stack(
        [
            cosine_B * flip_B, -sine_B * ratio, 2 * shift_B2[:, 0],
            sine_B * flip_B / ratio, cosine_B, 2 * shift_B2[:, 1],
        ],
        axis=1,
    )  # fmt: skip
    return matrix_B6.reshape(-1, 2, 3)


def _resampled(images_BCHW: Tensor, matrix_B23: NDArray[np.float64], beyond: Literal["zeros", "border"]) -> Tensor:
    """Images by matrices as `affine_grid` takes them; `beyond` says what lies outside of an image."""
    matrix = place(matrix_B23.astype(np.float32), images_BCHW.device)
    grid = functional.affine_grid(matrix, list(images_BCHW.shape), align_corners=False)
    moved = functional.grid_sample(
        images_BCHW.to(torch.float32), grid, mode="bilinear", padding_mode=beyond, align_corners=False
    )
    return moved.round().to(torch.uint8)


def erase(images_BCHW: Tensor, probability: float, draws_B5: NDArray[np.float32]) -> Tensor:
    """Images with a random rectangle of some blanked to 0 (random erasing, Zhong et al. 2017)."""
    height, width = images_BCHW.shape[2:]
    gate_B, area_B, aspect_B, top_B, left_B = draws_B5.T.astype(np.float64)
    pixels_B = (ERASED_AREA[0] + area_B * (ERASED_AREA[1] - ERASED_AREA[0])) * height * width
    # Log-uniform, so that upright and lying rectangles are alike frequent.
    ratio_B = ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** aspect_B
    high_B = np.clip(np.rint(np.sqrt(pixels_B * ratio_B)), 1, height)
    wide_B = np.clip(np.rint(np.sqrt(pixels_B / ratio_B)), 1, width)
    top_B, left_B = np.floor(top_B * (height - high_B + 1)), np.floor(left_B * (width - wide_B + 1))
    y_BH = (np.arange(height) >= top_B[:, None]) & (np.arange(height) < (top_B + high_B)[:, None])
    x_BW = (np.arange(width) >= left_B[:, None]) & (np.arange(width) < (left_B + wide_B)[:, None])
    y_BH &= (gate_B < probability)[:, None]
    device = images_BCHW.device
    inside_BH1, inside_B1W = place(y_BH, device)[:, :, None], place(x_BW, device)[:, None]
    return images_BCHW.masked_fill((inside_BH1 & inside_B1W)[:, None], 0)
