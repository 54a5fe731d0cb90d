import time

import torch
from torch import Tensor, nn

from training.parallel.exposed import ExposedWait


class _Slow(torch.autograd.Function):
    """Takes a while in the backward pass."""

    @staticmethod
    def forward(context: object, x: Tensor, seconds: float) -> Tensor:  # type: ignore[override]
        context.seconds = seconds  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        time.sleep(context.seconds)  # type: ignore[attr-defined]
        return gradient, None


def _pass(wait: ExposedWait, layers: nn.Sequential, computed_after: float, waited: float) -> None:
    x = torch.ones(1, 4, requires_grad=True)
    layers(_Slow.apply(layers[0](x), computed_after)).sum().backward()  # type: ignore[no-untyped-call]
    time.sleep(waited)
    wait.end()


def test_what_passes_after_the_last_gradient_is_told() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    wait = ExposedWait(layers.parameters(), on_gpu=False)
    assert wait.seconds() == 0
    for _ in range(3):
        _pass(wait, layers, computed_after=0.05, waited=0.02)
        assert 0.02 <= wait.seconds() < 0.05
