"""Pooling: the states of a text's tokens [B, L, S] -> one vector a text [B, outputs].

What the mask leaves out changes nothing, and a text without any token gets finite numbers.
"""

import torch
from torch import Tensor, nn


class MeanPooling(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.outputs = size

    def forward(self, states_BLS: Tensor, mask_BL1: Tensor) -> Tensor:
        return masked_mean(states_BLS, mask_BL1)


class MaxMeanPooling(nn.Module):
    """Maximum and mean over time, side by side; for states between -1 and 1, as recurrent ones are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.outputs = 2 * size

    def forward(self, states_BLS: Tensor, mask_BL1: Tensor) -> Tensor:
        peak_BS = states_BLS.masked_fill(~mask_BL1, -1.0).amax(dim=1)
        return torch.cat([peak_BS, masked_mean(states_BLS, mask_BL1)], dim=-1)


class AttentionPooling(nn.Module):
    """A mean whose weights are learned: softmax over time of v tanh(W state) (Yang et al. 2016)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.outputs = size
        self.hidden = nn.Linear(size, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, states_BLS: Tensor, mask_BL1: Tensor) -> Tensor:
        scores_BL1 = self.score(self.hidden(states_BLS).tanh()).float().masked_fill(~mask_BL1, -1e30)
        weights_BL1: Tensor = scores_BL1.softmax(dim=1).to(states_BLS.dtype)
        return (states_BLS * weights_BL1).sum(dim=1)


_POOLINGS: dict[str, type[MeanPooling | MaxMeanPooling | AttentionPooling]] = {
    "mean": MeanPooling,
    "max_mean": MaxMeanPooling,
    "attention": AttentionPooling,
}


def make_pooling(name: str, size: int) -> MeanPooling | MaxMeanPooling | AttentionPooling:
    """By name, for states of `size`; raises ValueError on an unknown one."""
    if name not in _POOLINGS:
        raise ValueError(f"pooling is {name!r}; it is one of {', '.join(_POOLINGS)}")
    return _POOLINGS[name](size)


def masked_mean(values_BLS: Tensor, mask_BL1: Tensor) -> Tensor:
    weights_BL1 = mask_BL1.to(values_BLS.dtype)
    return (values_BLS * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1.0)
