"""The exponential moving average of a model's weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.recipe import Recipe


def make_average(recipe: Recipe, module: nn.Module) -> AveragedModel | None:
    """What keeps the moving average of `module`'s weights, or None where `recipe` wants none.

    Buffers are copied as they are. `update_parameters(module)` follows each step; `module` of it is the averaged
    model; its state_dict() holds all that a resume needs. Over the first steps the decay rises with their number, or
    the untrained weights would weigh for long.
    """
    if not recipe.ema_decay:
        return None

    def blend(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        decay = min(recipe.ema_decay, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(list(averages), list(weights), 1 - decay)

    return AveragedModel(module, multi_avg_fn=blend)
