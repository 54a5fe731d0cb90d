"""Worker: this process among those that train together, and what it draws at random at a step."""

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


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed every global generator for one step of one worker: what dropout draws then needs no state to be saved."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{step}:{rank}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big") >> 1
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number & 0xFFFF_FFFF)
