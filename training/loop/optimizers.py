"""Optimizers: SGD and AdamW as torch has them, and Muon beside AdamW."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.recipe import Optimizer as OptimizerChoice
from training.recipe import Recipe

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def make_optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of `recipe` over the parameters of `module`, which must lie on their device already.

    Biases and normalization scales are not decayed: shrinking them regularizes nothing. Raises ValueError where
    Muon finds nothing to do.
    """
    choice = recipe.optimizer
    parameters = list(module.parameters())
    # One kernel over all parameters; on the CPU its sums come out in other bits than those of torch's default.
    fused = bool(parameters) and all(parameter.is_cuda for parameter in parameters)
    if choice.name == "muon":
        matrices = hidden_matrices(module)
        if not matrices:
            raise ValueError("optimizer.name is 'muon', but the model has no hidden matrix to step by it: use adamw")
        muons = set(map(id, matrices))
        others = _groups((p for p in parameters if id(p) not in muons), choice.weight_decay)
        return MuonWithAdamW(matrices, others, choice, fused)
    groups = _groups(parameters, choice.weight_decay)
    if choice.name == "sgd":
        return torch.optim.SGD(groups, lr=choice.lr, momentum=choice.momentum, nesterov=choice.momentum > 0)
    return torch.optim.AdamW(groups, lr=choice.lr, fused=fused)


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon is for: those of the layers between the input and the answer.

    That is linear, convolutional, recurrent and attention layers, but for the first convolution and the last layer
    (https://github.com/KellerJordan/Muon). Layers with as many outputs as the last are taken for heads too. Filters
    that see a part of the channels alone are no one matrix.
    """
    kinds = (nn.Linear, *_CONVOLUTIONS, nn.RNNBase, nn.MultiheadAttention)
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    outputs = [count for layer in layers if (count := _outputs(layer))]
    first = next((layer for layer in layers if isinstance(layer, _CONVOLUTIONS)), None)
    hidden = [
        layer
        for layer in layers
        if layer is not first and _outputs(layer) != outputs[-1] and getattr(layer, "groups", 1) == 1
    ]
    return [p for layer in hidden for p in layer.parameters(recurse=False) if p.ndim > 1]


def _outputs(layer: nn.Module) -> int | None:
    """How many outputs a linear or convolutional layer has; None of others, which never answer."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, _CONVOLUTIONS) else None


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon for some parameters and AdamW for the others, as one Optimizer. Muon's group is the first.

    torch's Muon takes matrices alone: a filter [out, in, height, width] is stepped as [out, in * height * width], and
    its momentum is kept so.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[dict[str, Any]], choice: OptimizerChoice, fused: bool
    ) -> None:
        self._adamw = torch.optim.AdamW(others, lr=choice.lr * choice.adamw_lr_share, fused=fused)
        muon = {
            "params": matrices, "lr": choice.lr, "weight_decay": choice.weight_decay,
            "momentum": choice.momentum, "nesterov": choice.momentum > 0,
        }  # fmt: skip
        super().__init__([muon, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        matrices = [_as_matrix(parameter) for parameter in parameters]
        settings = {name: group[name] for name in ("lr", "weight_decay", "momentum", "nesterov")}
        muon = torch.optim.Muon([{"params": matrices, **settings}])
        for parameter, matrix in zip(parameters, matrices, strict=True):
            muon.state[matrix] = self.state[parameter]
        muon.step()  # type: ignore[no-untyped-call]
        for parameter, matrix in zip(parameters, matrices, strict=True):
            if matrix.data_ptr() != parameter.data_ptr():
                parameter.copy_(matrix.view_as(parameter))
        # load_state_dict() puts new groups and states in the place of those that AdamW was made with.
        self._adamw.param_groups, self._adamw.state = self.param_groups[1:], self.state
        self._adamw.step()
        return loss


def _as_matrix(parameter: nn.Parameter) -> Tensor:
    """[out, ...] -> [out, rest] with its gradient: a view where memory lies in that order, else a copy."""
    assert parameter.grad is not None
    matrix = parameter.detach().flatten(1)
    matrix.grad = parameter.grad.flatten(1)
    return matrix
