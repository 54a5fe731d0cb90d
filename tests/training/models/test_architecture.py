import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.toys import IMAGES, TEXTS
from training.encoding import Encoding
from training.models.architecture import BUILT_IN, Architecture, build, check, self_contained
from training.models.vision import Scale, convnet


def test_a_model_of_ones_own_is_built_by_module_and_callable() -> None:
    module = build(Architecture("tests.toys:dense", {"hidden": 5}), IMAGES)
    assert module(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape == (2, 3)
    assert [parameter.shape[0] for parameter in module.parameters()] == [5, 5, 3, 3]


@pytest.mark.parametrize("act", [check, lambda architecture: build(architecture, IMAGES)], ids=["check", "build"])
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture("vgg"), f"'vgg' is not one of {', '.join(BUILT_IN)}, torchvision/NAME, .* nor a module:callable"),
        (Architecture("keras/vgg"), "'keras/vgg' is not one of"),
        (Architecture("resnet21"), "'resnet21' is not one of"),
        (Architecture("tests.toys:net"), "'tests.toys:net' names neither"),
        (Architecture("tests.nowhere:net"), "'tests.nowhere:net' names neither"),
        (
            Architecture("convnet", {"widths": [8], "depth": 3}),
            "model 'convnet' .* unexpected keyword argument 'depth'; it takes widths, blocks, dropout",
        ),
        (Architecture("convnet"), "model 'convnet' .* missing a required argument: 'widths'"),
        (Architecture("resnet20", {"depth": 32}), "model 'resnet20' .* depth is said by the name; it takes mean, std"),
        (Architecture("gru", {"hidden": 3}), "model 'gru' .* missing a required argument: 'vocabulary'"),
        (Architecture("tests.toys:dense", {"width": 5}), "unexpected keyword argument 'width'; it takes hidden"),
    ],
)
def test_unknown_names_and_parameters_are_refused_with_those_there_are(
    act: Callable[[Architecture], object], architecture: Architecture, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        act(architecture)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("convnet", {"widths": [8]}),
        Architecture("resnet110"),
        Architecture("transformer", {"vocabulary": 10**12, "width": 2**20}),  # which no machine could build
        Architecture("tests.toys:dense", {"hidden": 5}),
        Architecture("torchvision/efficientnet_b7", {"dropout": 0.3}),
        Architecture("timm/vit_large_patch16_224", {"size": 64}),
    ],
)
def test_a_check_passes_what_can_be_built_and_builds_nothing(architecture: Architecture) -> None:
    check(architecture)


def test_pruned_layers_get_their_sizes() -> None:
    sizes = {"1.0": (1, 5), "1.1": (5, 5), "2.0": (5, 8)}
    module = build(Architecture("convnet", {"widths": [8], "blocks": 2}, sizes), IMAGES)
    assert module(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape == (2, 3)
    assert module.get_parameter("1.0.weight").shape[0] == 5
    assert module.get_parameter("2.0.weight").shape[:2] == (8, 5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"1.0": (1, 5)}, "model 'convnet' cannot read what its task makes"),  # its BatchNorm kept its own
        ({"conv1": (1, 5)}, r"size \(1, 5\) of layer 'conv1': there is no such layer"),
    ],
)
def test_sizes_that_do_not_fit_the_model_are_refused(sizes: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Architecture("convnet", {"widths": [8]}, sizes), IMAGES)


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4,), (4, 4, 4), (4, 1.5), ("4", 4)])
def test_a_size_is_two_numbers_above_zero(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"of layer 'conv1': it is two numbers above 0"):
        Architecture("convnet", {}, {"conv1": size})


def test_blocks_that_were_dropped_are_left_out() -> None:
    whole = Architecture("resnet", {"widths": [8], "blocks": 3})
    module = build(dataclasses.replace(whole, dropped=("2", "4")), IMAGES)
    assert module(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape == (2, 3)
    kept = {name for name, _ in build(whole, IMAGES).named_parameters() if name.split(".")[0] not in ("2", "4")}
    assert {name for name, _ in module.named_parameters()} == kept


@pytest.mark.parametrize("name", ["7.1", "layer1", ""])
def test_a_block_that_is_none_of_the_model_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"block {name!r} is to be left out: there is no such part"):
        build(Architecture("convnet", {"widths": [8]}, dropped=(name,)), IMAGES)


def test_blocks_are_listed() -> None:
    with pytest.raises(ValueError, match="dropped is '2': it lists the names of blocks"):
        Architecture("convnet", {"widths": [8]}, dropped="2")  # type: ignore[arg-type]


@pytest.mark.parametrize("params", [{"widths": 8}, {"widths": ["a"]}])
def test_parameters_of_the_wrong_type_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"model 'convnet' with parameters"):
        build(Architecture("convnet", params), IMAGES)


def wide(encoding: Encoding) -> nn.Module:
    return nn.Sequential(Scale(), nn.Flatten(), nn.LazyLinear(7))


def double(encoding: Encoding) -> nn.Module:
    return nn.Sequential(Scale(), nn.Flatten(), nn.Linear(16, 3)).double()


def coloured(encoding: Encoding) -> nn.Module:
    return nn.Sequential(Scale(), nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def nothing(encoding: Encoding) -> nn.Module:
    return nn.Identity()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide", r"answers a row with torch\.float32 \(1, 7\), not with logits, torch\.float32 \(1, 3\)"),
        ("double", "cannot read what its task makes"),
        ("coloured", r"cannot read what its task makes, torch\.uint8 \(1, 1, 4, 4\): .*expected input"),
        ("nothing", r"answers a row with torch\.uint8"),
    ],
)
def test_a_module_that_does_not_answer_its_task_is_refused_when_it_is_built(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"model '{__name__}:{name}' {message}"):
        build(Architecture(f"{__name__}:{name}"), IMAGES)


def test_a_module_is_tried_without_being_changed() -> None:
    torch.manual_seed(0)
    module = build(Architecture("convnet", {"widths": [8], "dropout": 0.5}), IMAGES)
    after = torch.rand(1)
    assert module.training
    assert all(not buffer.any() for name, buffer in module.named_buffers() if not name.endswith("running_var"))
    assert all(p.grad is None for p in module.parameters())
    torch.manual_seed(0)
    convnet(IMAGES, widths=[8], dropout=0.5)
    assert torch.equal(after, torch.rand(1))


def test_what_holds_nothing_to_look_up_is_its_own_self_contained_form() -> None:
    for architecture in (Architecture("resnet20"), Architecture("torchvision/resnet18", {"pretrained": True})):
        assert self_contained(architecture) is architecture


@pytest.mark.parametrize(
    ("name", "params", "encoding"),
    [
        ("convnet", {"widths": [8]}, TEXTS),
        ("resnet", {"widths": [8]}, TEXTS),
        ("lstm", {"vocabulary": 9, "embedding": 4, "hidden": 4}, IMAGES),
        ("bag_of_embeddings", {"vocabulary": 9, "embedding": 4, "hidden": 4}, IMAGES),
        ("transformer", {"vocabulary": 9}, IMAGES),
        ("resnet20", {}, TEXTS),
        ("torchvision/resnet18", {}, TEXTS),
    ],
)
def test_a_model_refuses_an_encoding_of_the_other_kind(name: str, params: dict[str, object], encoding: object) -> None:
    with pytest.raises(ValueError, match=r"model needs an? (text|image) Encoding, not one of kind"):
        build(Architecture(name, params), encoding)


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Architecture("convnet").name = "resnet"  # type: ignore[misc]
