"""No weights are downloaded: the networks here are untrained ones."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from training.encoding import ImageEncoding
from training.models.architecture import Architecture, build, check
from training.models.imagenet import ImageNetwork
from training.models.torchvision_door import models, transforms

GREY = ImageEncoding(height=8, width=8, channels=1, labels=("a", "b", "c"))
COLOUR = ImageEncoding(height=40, width=48, channels=3, labels=tuple("abcdefghij"))
THOUSAND = ImageEncoding(height=64, width=64, channels=3, labels=tuple(str(number) for number in range(1000)))
SMALL_VIT = {"size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}


def _build(name: str, encoding: ImageEncoding, params: Mapping[str, Any] | None = None) -> ImageNetwork:
    module = build(Architecture(name, params or {}), encoding)
    assert isinstance(module, ImageNetwork)
    return module


@pytest.mark.parametrize("encoding", [GREY, COLOUR])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("torchvision/resnet18", {}),
        ("torchvision/mobilenet_v3_small", {"dropout": 0.1}),
        ("torchvision/efficientnet_b0", {}),
        ("torchvision/googlenet", {}),
        ("torchvision/shufflenet_v2_x0_5", {}),
        ("timm/resnet10t", {}),
        ("timm/vit_tiny_patch16_224", SMALL_VIT),
    ],
)
def test_images_in_grey_and_of_small_sizes_become_logits(
    name: str, params: dict[str, Any], encoding: ImageEncoding
) -> None:
    module = _build(name, encoding, params)
    images_BCHW = torch.randint(0, 256, (3, encoding.channels, encoding.height, encoding.width), dtype=torch.uint8)
    for mode in (module.train(), module.eval()):
        logits_BC = mode(images_BCHW)
        assert logits_BC.shape == (3, len(encoding.labels))
        assert torch.isfinite(logits_BC).all()


@pytest.mark.slow
def test_torchvisions_vision_transformer_is_built_for_the_size_that_is_asked_for() -> None:
    module = _build("torchvision/vit_b_32", GREY, {"size": 64})
    assert module.network.image_size == 64
    assert module(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_a_network_has_the_parameters_that_torchvision_publishes(name: str) -> None:
    published = models().get_model_weights(name).DEFAULT.meta["num_params"]
    assert sum(p.numel() for p in _build(f"torchvision/{name}", THOUSAND).parameters()) == published


def test_grey_images_are_read_as_colour_ones_without_colour() -> None:
    torch.manual_seed(0)
    module = _build("torchvision/resnet18", GREY).eval()
    grey_BCHW = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(module(grey_BCHW), module(grey_BCHW.repeat(1, 3, 1, 1)))


def test_pixels_are_scaled_as_the_published_weights_were_trained() -> None:
    module = _build("torchvision/resnet18", COLOUR).eval()
    images_BCHW = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8)
    preset = models().ResNet18_Weights.DEFAULT.transforms()
    x_BCHW = transforms().functional.normalize(images_BCHW / 255, preset.mean, preset.std)
    torch.testing.assert_close(module(images_BCHW), module.network(x_BCHW))
    centred = _build("timm/vit_tiny_patch16_224", GREY, SMALL_VIT).normalize
    assert centred(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten().tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("name", "encoding", "params", "side"),
    [
        ("torchvision/resnet18", GREY, {}, None),
        ("torchvision/resnet18", GREY, {"size": 16}, (16, 16)),
        ("torchvision/alexnet", COLOUR, {}, (63, 63)),  # the smallest that it reads
        ("timm/vit_tiny_patch16_224", GREY, {"depth": 1}, (224, 224)),  # the only one that it reads
        ("timm/vit_tiny_patch16_224", GREY, SMALL_VIT, (32, 32)),
    ],
)
def test_images_are_resized_only_where_they_have_to_be(
    name: str, encoding: ImageEncoding, params: dict[str, Any], side: tuple[int, int] | None
) -> None:
    assert _build(name, encoding, params).side == side


def test_options_reach_the_network() -> None:
    module = _build("torchvision/mobilenet_v3_small", GREY, {"dropout": 0.7})
    assert 0.7 in [part.p for part in module.modules() if isinstance(part, nn.Dropout)]


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture("torchvision/resnet19"), "torchvision has no classifier 'resnet19'; it has alexnet, "),
        (Architecture("torchvision/fcn_resnet50"), "torchvision has no classifier 'fcn_resnet50'"),
        (Architecture("timm/resnet19"), "timm has no model 'resnet19'; the nearest are .*resnet18"),
        (
            Architecture("torchvision/resnet18", {"depth": 3}),
            "torchvision/resnet18 .*unexpected keyword argument 'depth'",
        ),
        (Architecture("timm/resnet18", {"depth": 3}), "timm/resnet18 .*unexpected keyword argument 'depth'"),
        (Architecture("torchvision/vit_b_16", {"size": 30}), "torchvision/vit_b_16 .*: Input shape indivisible"),
    ],
)
def test_unknown_networks_and_options_are_refused_before_anything_is_built(
    architecture: Architecture, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(architecture)


def test_a_check_makes_no_weights() -> None:
    """They would be ten gigabytes."""
    check(Architecture("torchvision/vit_h_14"))
    check(Architecture("timm/vit_giant_patch14_224"))
    check(Architecture("torchvision/regnet_y_400mf"))  # reads values while it is built, so only its name is checked


def test_images_that_a_network_cannot_read_are_refused_when_it_is_built() -> None:
    with pytest.raises(ValueError, match=r"model 'timm/convnext_atto' cannot read what its task makes.*1, 1, 8, 8"):
        build(Architecture("timm/convnext_atto"), GREY)
