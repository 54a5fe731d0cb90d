"""Counts: how many parameters a model has, and how many multiply-accumulates a row costs it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Counts:
    """`macs` are those of the convolutions and matrix products for one row; a bias or a norm costs none."""

    parameters: int
    macs: int


def count(module: nn.Module, row: Tensor) -> Counts:
    """`row` is a batch of one row."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = module.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            module.eval()(row)
    finally:
        module.train(was_training)
    # It counts a multiplication and an addition each as one operation.
    return Counts(sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2)
