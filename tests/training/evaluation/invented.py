"""Tasks whose models' answers can be foretold: what a row's first two pixels say is answered, and how surely."""

import numpy as np

from training.encoding import Array, ImageEncoding
from training.task import SPLIT_NAMES, Split, SplitName, Task

RIGHT_IN_TRAIN, RIGHT_ELSEWHERE = 0.95, 0.8


def image_task(classes: int, rows: int = 200, channels: int = 1, side: int = 12, seed: int = 0) -> Task:
    """Noise whose first pixel names the class that `say` answers: the true one in 4 rows of 5."""
    generator = np.random.default_rng(seed)
    splits: dict[SplitName, Split] = {}
    for name in SPLIT_NAMES:
        labels = generator.integers(0, classes, rows)
        right = generator.random(rows) < (RIGHT_IN_TRAIN if name == "train" else RIGHT_ELSEWHERE)
        stated = np.where(right, labels, (labels + generator.integers(1, max(2, classes), rows)) % classes)
        images = generator.integers(0, 256, (rows, channels, side, side), dtype=np.uint8)
        images[:, 0, 0, 0] = stated
        splits[name] = Split(images, labels)
    encoding = ImageEncoding(side, side, channels, tuple(f"class {i}" for i in range(classes)))
    return Task("invented", encoding, splits)


def say(classes: int, strength: float = 3.0) -> "Say":
    return Say(classes, strength)


class Say:
    """A model: the class that the first pixel names gets `strength` times what the second pixel says (of 1 to 2)."""

    def __init__(self, classes: int, strength: float) -> None:
        self.classes, self.strength = classes, strength

    def __call__(self, images_BCHW: Array) -> Array:
        stated = images_BCHW[:, 0, 0, 0].astype(int) % self.classes
        sureness = self.strength * (1 + images_BCHW[:, 0, 0, 1] / 255)
        logits: Array = np.eye(self.classes, dtype=np.float32)[stated] * sureness[:, None].astype(np.float32)
        return logits
