"""What tests of text models share: a batch of rows of unlike length."""

import pytest
import torch
from torch import Tensor

LENGTHS = [7, 1, 12, 4]


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(0)
    batch = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    for row, length in zip(batch, LENGTHS, strict=True):
        row[:length] = torch.randint(1, 50, (length,))
    return batch
