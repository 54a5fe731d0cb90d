"""Policies: torchvision's RandAugment (Cubuk et al. 2019) and TrivialAugment (Müller and Hutter 2021), image by image.

What they do and how strongly is torchvision's; what befalls an image is drawn by us. torchvision draws from torch's
global generator, which the training thread and other loading threads draw from at the same time.

Shape suffixes: B batch, C channels, D draws, H height, W width.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.models import torchvision_door

DRAWS_AN_OPERATION = 3  # which one, how strong, which sign


class Policy:
    """`draws` uniform numbers an image say what is done to it."""

    def __init__(self, name: Literal["rand_augment", "trivial_augment"]) -> None:
        transforms = torchvision_door.transforms()
        classes = {"rand_augment": transforms.RandAugment, "trivial_augment": transforms.TrivialAugmentWide}
        self._change: Any = classes[name]()
        self._operations = list(self._change._AUGMENTATION_SPACE.items())
        self._bins = self._change.num_magnitude_bins
        # RandAugment is always as strong; TrivialAugment draws how strong it is.
        self._magnitude: int | None = getattr(self._change, "magnitude", None)
        self.draws = DRAWS_AN_OPERATION * getattr(self._change, "num_ops", 1)

    def __call__(self, images_BCHW: Tensor, uniforms_BD: NDArray[np.float32]) -> Tensor:
        """uint8 images [B, C, H, W] -> the same, each changed by its own numbers, 0 <= x < 1, [B, draws], alone."""
        changed = torch.empty_like(images_BCHW)
        for row, uniforms_D in enumerate(uniforms_BD.tolist()):
            image = images_BCHW[row]
            for first in range(0, self.draws, DRAWS_AN_OPERATION):
                image = self._operate(image, *uniforms_D[first : first + DRAWS_AN_OPERATION])
            changed[row] = image
        return changed

    def _operate(self, image_CHW: Tensor, which: float, strength: float, sign: float) -> Tensor:
        name, (magnitudes_of, is_signed) = self._operations[int(which * len(self._operations))]
        magnitudes = magnitudes_of(self._bins, *image_CHW.shape[-2:])
        magnitude = 0.0
        if magnitudes is not None:
            chosen = int(strength * self._bins) if self._magnitude is None else self._magnitude
            magnitude = float(magnitudes[chosen]) * (-1 if is_signed and sign < 0.5 else 1)
        operated: Tensor = self._change._apply_image_or_video_transform(
            image_CHW, name, magnitude, interpolation=self._change.interpolation, fill=self._change._fill
        )
        return operated
