"""Architecture: a model's shape as data, and the one place that turns it into an nn.Module."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from training.encoding import Encoding
from training.task import load_callable

if TYPE_CHECKING:
    from torch import nn

BUILT_IN = {
    "convnet": "training.models.vision:convnet",
    "resnet": "training.models.vision:resnet",
    "lstm": "training.models.text:lstm",
    "bag_of_embeddings": "training.models.text:bag_of_embeddings",
}


@dataclass(frozen=True)
class Architecture:
    """`name` is a built-in model or the user's own `module:callable`; `params` are its JSON keyword arguments."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


def build(architecture: Architecture, encoding: Encoding) -> "nn.Module":
    """An untrained module: a batch as `encoding.input_spec` says -> float32 logits [B, classes].

    The module takes uint8 pixels (or int64 tokens) itself, so that scaling is part of its graph.
    Raises ValueError on an unknown name or parameter.
    """
    reference = BUILT_IN.get(architecture.name, architecture.name)
    if ":" not in reference:
        raise ValueError(f"model {reference!r} is not one of {', '.join(BUILT_IN)} nor a module:callable")
    factory = load_callable(reference, "training.models", "build")
    try:
        module: nn.Module = factory(encoding, **architecture.params)
    except TypeError as error:
        raise ValueError(f"model {architecture.name!r} with parameters {dict(architecture.params)}: {error}") from error
    return module
