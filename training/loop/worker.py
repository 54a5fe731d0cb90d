"""Worker: this process among those that train together, and what it draws at random."""

import hashlib
import random
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Worker:
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


def seed_everything(seed: int) -> None:
    """Seed every global generator: torch's on every device, Python's and numpy's.

    Called before a model is built, so that it begins the same whatever it draws its weights from.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)  # all that it takes


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """`seed_everything` for one step of one worker: what dropout draws then needs no state to be saved."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{step}:{rank}".encode(), digest_size=8).digest()
    seed_everything(int.from_bytes(digest, "big") >> 1)
