"""Mixing rows with their neighbours in the global batch: mixup (Zhang et al. 2017) and cutmix (Yun et al. 2019).

How a batch is mixed is drawn for (seed, epoch, step), and a row's partner is the one that follows it in the global
batch, the first following the last: how the batch is cut among workers and micro-batches changes nothing.

Shape suffixes: B batch, C channels or classes, H height, W width.
"""

import math

import numpy as np
from torch import Tensor

from training.recipe import Augmentation

# Apart from other draws by (seed, epoch, ...).
_STREAM = 2


def mix(
    inputs: Tensor,
    partner_inputs: Tensor,
    targets_BC: Tensor,
    partner_targets_BC: Tensor,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """uint8 images [B, C, H, W] and probabilities [B, C] -> the same, mixed with those of each row's partner.

    Where mixup and cutmix are both set, half of the steps have the one and half the other. Blended pixels are rounded
    to whole levels, to the nearer one: an error of 0.3 levels without bias, far below what a camera adds.
    Raises ValueError where the inputs are no images.
    """
    if inputs.ndim != 4:
        raise ValueError(f"mixup and cutmix are for images [B, C, H, W], not for inputs {tuple(inputs.shape)}: leave "
                         "augmentation.mixup and augmentation.cutmix at 0")  # fmt: skip
    random = np.random.default_rng((seed, epoch, step, _STREAM))
    cuts = augmentation.cutmix > 0 and (not augmentation.mixup or random.random() < 0.5)
    alpha = augmentation.cutmix if cuts else augmentation.mixup
    share = float(random.beta(alpha, alpha))
    if cuts:
        inputs, share = _pasted(inputs, partner_inputs, share, random)
    else:
        inputs = _blended(inputs, partner_inputs, share)
    return inputs, targets_BC.lerp(partner_targets_BC, 1 - share)


def _blended(images_BCHW: Tensor, partners_BCHW: Tensor, share: float) -> Tensor:
    return images_BCHW.float().lerp_(partners_BCHW.float(), 1 - share).round_().to(images_BCHW.dtype)


def _pasted(
    images_BCHW: Tensor, partners_BCHW: Tensor, share: float, random: np.random.Generator
) -> tuple[Tensor, float]:
    """The images with a rectangle of their partners in them, and the share of the pixels that stay their own.

    The rectangle has the image's aspect and lies about a point anywhere in it, so it may be cut off at the edge.
    """
    height, width = images_BCHW.shape[2:]
    side = math.sqrt(1 - share)
    y, x = random.random(2) * (height, width)
    top, bottom = (round(min(max(y + half, 0), height)) for half in (-side * height / 2, side * height / 2))
    left, right = (round(min(max(x + half, 0), width)) for half in (-side * width / 2, side * width / 2))
    pasted = images_BCHW.clone()
    pasted[:, :, top:bottom, left:right] = partners_BCHW[:, :, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
