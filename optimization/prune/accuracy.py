"""Accuracy of a module in this process. Shape suffixes: B rows, C classes."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from training.task import Split

ROWS_AT_ONCE = 64


def accuracy_of(module: nn.Module, split: Split, weights: Mapping[str, Tensor] | None = None) -> float:
    """The share of rows that `module` answers right, with `weights` in place of its own; it is not changed."""
    was_training, right = module.training, 0
    held = dict(weights or {})
    module.eval()
    with torch.no_grad():
        for first in range(0, len(split), ROWS_AT_ONCE):
            rows = torch.from_numpy(np.array(split.inputs[first : first + ROWS_AT_ONCE]))
            logits_BC = torch.func.functional_call(module, held, (rows,))
            right += int((logits_BC.argmax(dim=1).numpy() == split.labels[first : first + ROWS_AT_ONCE]).sum())
    module.train(was_training)
    return right / len(split)
