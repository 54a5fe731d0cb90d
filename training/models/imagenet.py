"""Networks made for ImageNet, torchvision's and timm's, by name: uint8 [B, C, H, W] -> float32 logits [B, classes].

How the images of another set are fitted to them: grey ones are repeated as red, green and blue; pixels are scaled as
the network's published weights were trained; images too small for the network, and all images for one that reads a
single size only (ViT, Swin by timm, MaxViT), are enlarged within the module. The head has the task's classes.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.encoding import Encoding
from training.models.torchvision_door import declare_operators, models
from training.models.vision import Normalize, image_encoding

Side = tuple[int, int]
# torchvision's networks that are built for one size of images, by how their names begin, and what sets that size.
_SIZE_OPTIONS: dict[str, str] = {"vit_": "image_size", "maxvit_": "input_size"}


class ImageNetwork(nn.Module):
    """`network` behind the preparation of its images. `side` is (height, width) to resize to; None leaves the size."""

    def __init__(self, network: nn.Module, normalize: Normalize, side: Side | None) -> None:
        super().__init__()
        self.normalize = normalize
        self.side = side
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BCHW = self.normalize(images_BCHW.expand(-1, 3, -1, -1))
        if self.side is not None:
            x_BCHW = functional.interpolate(x_BCHW, self.side, mode="bilinear", align_corners=False)
        logits_BC: Tensor = self.network(x_BCHW)
        return logits_BC


class Source(Protocol):
    """A library of networks."""

    def check(self, name: str) -> None:
        """Raises ValueError where the library has no network of that name."""

    def normalize(self, name: str) -> Normalize: ...

    def smallest(self, name: str) -> Side:
        """The smallest images that the network reads; the only ones, where it reads one size alone."""

    def size_option(self, name: str) -> str | None:
        """The keyword by which a network that reads one size of images is told which; None for all others."""

    def make(self, name: str, classes: int, options: Mapping[str, Any]) -> nn.Module: ...

    def weights(self, name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The published weights, downloaded where they are not cached."""


class Torchvision:
    def check(self, name: str) -> None:
        loaded = models()
        known = loaded.list_models(module=loaded)
        if name not in known:
            raise ValueError(f"torchvision has no classifier {name!r}; it has {', '.join(known)}")

    def normalize(self, name: str) -> Normalize:
        preset = self._published(name).transforms()
        return Normalize(3, preset.mean, preset.std)

    def smallest(self, name: str) -> Side:
        height, width = self._published(name).meta["min_size"]
        return height, width

    def size_option(self, name: str) -> str | None:
        return next((option for start, option in _SIZE_OPTIONS.items() if name.startswith(start)), None)

    def make(self, name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
        # The two networks with heads beside their head, which answer with several tensors while they train.
        single = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        option = self.size_option(name)
        if option == "input_size":
            options = {**options, option: (options[option], options[option])}
        made: nn.Module = models().get_model(name, weights=None, num_classes=classes, **single, **options)
        return made

    def weights(self, name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = self._published(name).get_state_dict(progress=False, check_hash=True)
        return state

    def _published(self, name: str) -> Any:
        return models().get_model_weights(name).DEFAULT


class Timm:
    def __init__(self) -> None:
        declare_operators()
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ValueError("models named timm/... need timm: pip install 'tandem-serve[vision]'") from error
        self._timm: Any = timm

    def check(self, name: str) -> None:
        if not self._timm.is_model(name):
            like = difflib.get_close_matches(name, self._timm.list_models(), n=5, cutoff=0.0)
            raise ValueError(f"timm has no model {name!r}; the nearest are {', '.join(like)}")

    def normalize(self, name: str) -> Normalize:
        published = self._published(name)
        return Normalize(3, published.mean, published.std)

    def smallest(self, name: str) -> Side:
        published = self._published(name)
        size = published.input_size if published.fixed_input_size else published.min_input_size
        return (size[1], size[2]) if size else (1, 1)

    def size_option(self, name: str) -> str | None:
        return "img_size" if self._published(name).fixed_input_size else None

    def make(self, name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
        made: nn.Module = self._timm.create_model(name, pretrained=False, num_classes=classes, **options)
        return made

    def weights(self, name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = self._timm.create_model(name, pretrained=True, **options).state_dict()
        return state

    def _published(self, name: str) -> Any:
        # A name that was never published with weights has no such configuration: timm's default stands in.
        return self._timm.models.get_pretrained_cfg(name) or self._timm.models.PretrainedCfg()


def source(library: str) -> Source:
    """Raises ValueError where the library is not installed."""
    return Torchvision() if library == "torchvision" else Timm()


def network(
    encoding: Encoding, library: str, name: str, size: int | None = None, pretrained: bool = False, **options: Any
) -> nn.Module:
    """An untrained network of `library`; `options` are its own keyword arguments there, such as dropout.

    `size` is the side that images are resized to; without it they keep their own where the network reads it.
    `pretrained` is what `training.models.pretrained` acts by.
    """
    image = image_encoding(encoding)
    found = source(library)
    found.check(name)
    side = _side(found, name, (image.height, image.width), size)
    made = found.make(name, len(image.labels), _with_size(found, name, options, side))
    return ImageNetwork(made, found.normalize(name), None if side == (image.height, image.width) else side)


def check_network(library: str, name: str, size: int | None, options: Mapping[str, Any]) -> None:
    """Raises ValueError on an unknown name or option. The network is laid out without memory for its weights."""
    found = source(library)
    found.check(name)
    options = _with_size(found, name, options, _side(found, name, (1, 1), size))
    try:
        with torch.device("meta"):
            found.make(name, 2, options)
    except NotImplementedError:
        pass  # a network that reads values while it is built can only be built in earnest
    except Exception as error:
        raise ValueError(f"{library}/{name} with {dict(options)}: {error}") from error


def pretrained_weights(library: str, name: str, size: int | None, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The published weights of a network. Raises ValueError where they can neither be found nor downloaded."""
    found = source(library)
    found.check(name)
    try:
        return found.weights(name, _with_size(found, name, options, _side(found, name, (1, 1), size)))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of {library}/{name} cannot be had ({error}): leave out pretrained, or start from a file"
        ) from error


def _side(found: Source, name: str, own: Side, size: int | None) -> Side:
    """What images are resized to: `size`; else the one size that the network reads; else at least the smallest."""
    if size is not None:
        return size, size
    smallest = found.smallest(name)
    if found.size_option(name):
        return smallest
    return max(own[0], smallest[0]), max(own[1], smallest[1])


def _with_size(found: Source, name: str, options: Mapping[str, Any], side: Side) -> dict[str, Any]:
    option = found.size_option(name)
    return {**options, option: side[0]} if option else dict(options)
