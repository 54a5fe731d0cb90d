"""Architecture: a model's shape as data, and the one place that turns it into an nn.Module."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from training.encoding import Encoding, ImageEncoding
from training.task import load_callable

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """`name` is a built-in model, one of a library (`torchvision/NAME`, `timm/NAME`, `transformers/FOLDER_OR_NAME`) or
    the user's own `module:callable`; `params` are its JSON keyword arguments.

    `sizes` are of pruned layers: by a layer's name in the module, the channels or features that it reads and makes.
    `dropped` are the names of the blocks that pruning left out.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.dropped, str) or not all(isinstance(block, str) for block in self.dropped):
            raise ValueError(f"dropped is {self.dropped!r}: it lists the names of blocks")
        for layer, size in self.sizes.items():
            if len(size) != 2 or not all(isinstance(width, int) and width > 0 for width in size):
                raise ValueError(f"size {size} of layer {layer!r}: it is two numbers above 0, of what is read and made")

    def to_json(self) -> dict[str, Any]:
        """A model that was not pruned says nothing of pruning: digests are of these bytes, also of those of old."""
        data = asdict(self)
        return {name: value for name, value in data.items() if value or name not in ("sizes", "dropped")}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Architecture":
        """Inverse of `to_json`; raises TypeError or ValueError on anything else."""
        sizes, dropped = data.get("sizes", {}), data.get("dropped", ())
        if not isinstance(sizes, Mapping):
            raise ValueError(f"sizes are {sizes!r}: they are a size for each layer's name")
        sizes = {layer: tuple(size) for layer, size in sizes.items()}
        blocks = dropped if isinstance(dropped, str) else tuple(dropped)  # a text is refused as such
        return Architecture(**{**data, "sizes": sizes, "dropped": blocks})


@dataclass(frozen=True)
class _Factory:
    reference: str
    fixed: Mapping[str, Any] = field(default_factory=dict)


BUILT_IN: dict[str, _Factory] = {
    "convnet": _Factory("training.models.vision:convnet"),
    "resnet": _Factory("training.models.vision:resnet"),
    **{
        f"resnet{depth}": _Factory("training.models.cifar_resnet:cifar_resnet", {"depth": depth})
        for depth in (20, 32, 44, 56, 110)
    },
    "bag_of_embeddings": _Factory("training.models.text:bag_of_embeddings"),
    **{cell: _Factory("training.models.recurrent:recurrent", {"cell": cell}) for cell in ("rnn", "lstm", "gru")},
    "transformer": _Factory("training.models.transformer:transformer"),
}
# A transformers model whose configuration is among its parameters; `transformers/NAME` becomes this.
CONFIGURED = "transformers"
IMAGE_LIBRARIES = ("torchvision", "timm")


def build(architecture: Architecture, encoding: Encoding) -> "nn.Module":
    """An untrained module: a batch as `encoding.input_spec` says -> float32 logits [B, classes].

    The module takes uint8 pixels (or int64 tokens) itself, so that scaling is part of its graph.
    Nothing is downloaded, but for the configuration of a transformers model that is given by its name on the hub.
    Raises ValueError on an unknown name, parameter or layer, and where the module cannot read what the Encoding makes.
    """
    architecture = self_contained(architecture)
    factory, params = _bound(architecture)
    try:
        module: nn.Module = factory(encoding, **params)
    except TypeError as error:
        raise ValueError(f"model {architecture.name!r} with parameters {dict(architecture.params)}: {error}") from error
    if architecture.dropped:
        from training.models.blocks import drop

        drop(module, architecture.dropped)
    if architecture.sizes:
        from training.models.sizes import resize

        resize(module, architecture.sizes)
    _try(module, architecture.name, encoding)
    return module


def check(architecture: Architecture) -> None:
    """Raises ValueError on an unknown name or parameter, before there is data; no weights are made."""
    architecture = self_contained(architecture)
    _, params = _bound(architecture)
    if architecture.name == CONFIGURED:
        from training.models.language import check_config

        check_config(params["config"])
    if architecture.name.partition("/")[0] in IMAGE_LIBRARIES:
        from training.models.imagenet import check_network

        own = {key: value for key, value in params.items() if key not in ("library", "name", "size", "pretrained")}
        check_network(params["library"], params["name"], params.get("size"), own)


def self_contained(architecture: Architecture) -> Architecture:
    """The same with nothing left to look up: a `transformers/FOLDER_OR_NAME` holds its configuration as data.

    Raises ValueError where there is no such configuration.
    """
    library, slash, name = architecture.name.partition("/")
    if library != CONFIGURED or not slash:
        return architecture
    from training.models.language import read_config

    changes = {key: value for key, value in architecture.params.items() if key != "pretrained"}
    origin = name if architecture.params.get("pretrained") else None
    params = {"config": read_config(name, changes), "pretrained": origin}
    return replace(architecture, name=CONFIGURED, params=params)


def _bound(architecture: Architecture) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The callable behind a name and all its arguments but the Encoding, as its signature takes them."""
    factory = _factory(architecture.name)
    made = load_callable(factory.reference, "training.models", "build")
    signature = inspect.signature(made)
    try:
        params = {**factory.fixed, **architecture.params}
        twice = [name for name in architecture.params if name in factory.fixed]
        if twice:
            raise TypeError(f"{', '.join(twice)} is said by the name")
        signature.bind(None, **params)
    except TypeError as error:
        takes = [name for name in list(signature.parameters)[1:] if name not in factory.fixed]
        raise ValueError(
            f"model {architecture.name!r} with parameters {dict(architecture.params)}: {error}; "
            f"it takes {', '.join(takes) or 'none'}"
        ) from error
    return made, params


def _factory(name: str) -> _Factory:
    library, slash, rest = name.partition("/")
    if library in IMAGE_LIBRARIES and slash:
        return _Factory("training.models.imagenet:network", {"library": library, "name": rest})
    if name == CONFIGURED:
        return _Factory("training.models.language:sequence_classifier")
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" in name:
        return _Factory(name)
    libraries = ", ".join(f"{library}/NAME" for library in (*IMAGE_LIBRARIES, CONFIGURED))
    raise ValueError(f"model {name!r} is not one of {', '.join(BUILT_IN)}, {libraries} nor a module:callable")


def example_row(encoding: Encoding) -> "Tensor":
    """A row such as `encoding` makes, as a batch of one: black pixels, or a text of one token over and over."""
    import torch

    if isinstance(encoding, ImageEncoding):
        return torch.zeros(1, encoding.channels, encoding.height, encoding.width, dtype=torch.uint8)
    return torch.full((1, encoding.max_tokens), 1 if encoding.pad_id == 0 else 0)


def _try(module: "nn.Module", name: str, encoding: Encoding) -> None:
    """Let one row through `module`; raises ValueError where it cannot read it or answers other than logits."""
    import torch

    row = example_row(encoding)
    training = module.training
    try:
        with torch.no_grad():
            logits = module.eval()(row)
    except Exception as error:  # whatever a layer, a library or the user's own code raises
        raise ValueError(
            f"model {name!r} cannot read what its task makes, {row.dtype} {tuple(row.shape)}: {error}"
        ) from error
    finally:
        module.train(training)
    wanted = (1, len(encoding.labels))
    if not isinstance(logits, torch.Tensor) or logits.shape != wanted or logits.dtype != torch.float32:
        answer = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"model {name!r} answers a row with {answer}, not with logits, torch.float32 {wanted}")
