"""Published weights cannot be downloaded where the tests run: what would be is put in their place."""

from pathlib import Path

import pytest
import torch

from training.encoding import ImageEncoding
from training.models import imagenet
from training.models.architecture import Architecture, build
from training.models.pretrained import load_pretrained

IMAGE = ImageEncoding(height=8, width=8, channels=1, labels=("a", "b", "c"))
RESNET = Architecture("torchvision/resnet18", {"pretrained": True})


def test_published_weights_are_loaded_but_for_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    published = imagenet.Torchvision().make("resnet18", 1000, {}).state_dict()
    monkeypatch.setattr(imagenet.Torchvision, "weights", lambda self, name, options: published)
    module = build(RESNET, IMAGE)
    report = load_pretrained(module, RESNET)
    assert report is not None
    assert report.source == "torchvision/resnet18, pretrained"
    assert [name.partition(" ")[0] for name in report.reshaped] == ["network.fc.weight", "network.fc.bias"]
    assert not report.missing and not report.unexpected
    assert torch.equal(module.get_parameter("network.conv1.weight"), published["conv1.weight"])


def test_building_a_model_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    build(RESNET, IMAGE)
    build(Architecture("timm/resnet10t", {"pretrained": True}), IMAGE)


def test_a_pruned_network_downloads_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(imagenet.Torchvision, "weights", refuse)
    sizes = {"network.layer1.0.conv1": (64, 8), "network.layer1.0.bn1": (8, 8), "network.layer1.0.conv2": (8, 64)}
    pruned = Architecture("torchvision/resnet18", {"pretrained": True}, sizes)
    assert load_pretrained(build(pruned, IMAGE), pruned) is None


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet10t"])
def test_weights_that_cannot_be_downloaded_are_told_so(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise ConnectionError("no route to host")

    found = imagenet.source(name.partition("/")[0])
    monkeypatch.setattr(type(found), "weights", unreachable)
    architecture = Architecture(name, {"pretrained": True})
    with pytest.raises(ValueError, match=rf"the weights of {name} cannot be had \(no route to host\)"):
        load_pretrained(build(architecture, IMAGE), architecture)


@pytest.mark.parametrize("params", [{}, {"pretrained": False}])
def test_nothing_is_loaded_where_nothing_is_asked_for(params: dict[str, bool]) -> None:
    architecture = Architecture("torchvision/resnet18", params)
    assert load_pretrained(build(architecture, IMAGE), architecture) is None
