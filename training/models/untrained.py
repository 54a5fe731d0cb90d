"""untrained(): the module that a training by a Recipe begins with, the same in every process."""

from torch import nn

from training.encoding import Encoding
from training.loop.worker import seed_everything
from training.models.architecture import build
from training.models.recompute import recompute_activations
from training.recipe import Recipe


def untrained(recipe: Recipe, encoding: Encoding) -> nn.Module:
    """Its weights are drawn by `recipe.seed`; where `recipe` says so, activations are computed again when needed.

    Pretrained weights are not loaded: `load_pretrained` does that, once a training and not whenever it goes on.
    """
    seed_everything(recipe.seed)
    module = build(recipe.architecture, encoding)
    if recipe.recompute_activations:
        recompute_activations(module)
    return module
