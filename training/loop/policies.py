"""Policies: torchvision's RandAugment (Cubuk et al. 2019) and TrivialAugment (Müller and Hutter 2021), image by image.

Shape suffixes: B batch, C channels, H height, W width.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.models import torchvision_door

Policy = Callable[[Tensor, NDArray[np.uint64]], Tensor]


def make_policy(name: Literal["rand_augment", "trivial_augment"]) -> Policy:
    """The function of (uint8 images [B, C, H, W], a key for each) that changes each image by its key alone."""
    transforms = torchvision_door.transforms()
    classes = {"rand_augment": transforms.RandAugment, "trivial_augment": transforms.TrivialAugmentWide}
    change: Any = classes[name]()

    def apply(images_BCHW: Tensor, keys_B: NDArray[np.uint64]) -> Tensor:
        changed = torch.empty_like(images_BCHW)
        # torchvision draws from torch's own generator (the CPU's, wherever the images are), which gets its state back.
        with torch.random.fork_rng(devices=[]):
            for row, key in enumerate(keys_B.tolist()):
                torch.default_generator.manual_seed(key)
                changed[row] = change(images_BCHW[row])
        return changed

    return apply
