"""Placement: numbers on their way to where the model is."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def place(array: NDArray[Any], device: torch.device) -> Tensor:
    """`array` as a tensor on `device`. A copy to a GPU goes on while the caller does, which needs pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
