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

    averaged = AveragedModel(module)

    def blend(averages: Sequence[Tensor], weights: Sequence[Tensor], moved: Tensor | int) -> None:
        # The count that stayed on the CPU: `moved` was copied to the GPU, and reading it there would wait for it.
        steps = int(averaged.n_averaged)
        decay = min(recipe.ema_decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(averages), list(weights), 1 - decay)

    averaged.multi_avg_fn = blend
    return averaged
