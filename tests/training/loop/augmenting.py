"""Images as a training would see them, by all that is done to them anywhere."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tests.toys import IMAGES
from training.encoding import Encoding
from training.loop.augment import preparation, prepare
from training.recipe import Augmentation


class Augment:
    def __init__(self, augmentation: Augmentation, seed: int = 0, encoding: Encoding = IMAGES) -> None:
        made = preparation(encoding, augmentation, seed)
        self._changes = (*made.on_cpu, *made.on_device)

    def __call__(self, inputs: Tensor, epoch: int, ids: NDArray[np.int64]) -> Tensor:
        return prepare(self._changes, inputs, epoch, ids)
