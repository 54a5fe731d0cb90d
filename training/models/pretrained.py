"""The weights that an architecture with `pretrained` starts a training from: torchvision's, timm's or transformers'."""

from torch import nn

from training.models.architecture import Architecture
from training.models.weights import WeightsReport, assign_weights


def load_pretrained(module: nn.Module, architecture: Architecture) -> WeightsReport | None:
    """Load into `module`, which `build(architecture, ...)` made, what its `pretrained` asks for; None if nothing.

    The head is as a rule of other classes, so it stays untrained, and the report says so. Raises ValueError where
    the weights can neither be found nor downloaded.
    """
    params = dict(architecture.params)
    family, _, name = architecture.name.partition("/")
    asked = params.pop("pretrained", None)
    is_pruned = architecture.sizes or architecture.dropped  # then it begins with the weights that pruning left
    if not asked or is_pruned:
        return None
    if family == "transformers":
        from training.models.language import pretrained_weights as weights_of_text_model

        origin = name or str(asked)
        return assign_weights(module, weights_of_text_model(module, origin), origin)
    if family in ("torchvision", "timm"):
        from training.models.imagenet import pretrained_weights as weights_of_network

        found = weights_of_network(family, name, params.pop("size", None), params)
        return assign_weights(module, found, f"{architecture.name}, pretrained")
    raise ValueError(f"model {architecture.name!r} has no pretrained weights: start from a file of your own instead")
