from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.shared_data import data_folder, weights_folder
from training.encoding import ImageEncoding
from training.models.architecture import Architecture, build
from training.models.cifar_resnet import BasicBlock, CifarResNet, cifar_resnet
from training.models.weights import load_weights
from training.module import predictor
from training.task import Source, Split, load_task

CIFAR = ImageEncoding(height=32, width=32, channels=3, labels=tuple("abcdefghij"))
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


# He et al. 2015, table 6, to the digits that it gives.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_a_network_has_the_layers_and_parameters_of_the_paper(depth: int, millions: float) -> None:
    module = build(Architecture(f"resnet{depth}"), CIFAR)
    parameters = sum(p.numel() for p in module.parameters())
    assert round(parameters / 1e6, 1 if depth == 110 else 2) == millions
    assert sum(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules()) == depth


def test_stages_halve_the_image_and_double_the_width() -> None:
    module = cifar_resnet(CIFAR, 20).eval()
    assert isinstance(module, CifarResNet)
    shapes = []
    for stage in (module.layer1, module.layer2, module.layer3):
        stage.register_forward_hook(lambda part, inputs, output: shapes.append(tuple(output.shape[1:])))
    module(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_a_shortcut_takes_every_second_pixel_and_fills_up_with_zeros() -> None:
    block = BasicBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)  # nothing but the shortcut is left
    x_BCHW = torch.rand(1, 2, 6, 6)
    out_BCHW = block(x_BCHW)
    assert torch.equal(out_BCHW[:, 1:3], x_BCHW[:, :, ::2, ::2])
    assert not out_BCHW[:, [0, 3]].any()


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 9, 17)])
def test_images_of_other_sizes_and_in_grey_are_read(channels: int, height: int, width: int) -> None:
    image = ImageEncoding(height=height, width=width, channels=channels, labels=("a", "b"))
    assert build(Architecture("resnet20"), image)(torch.zeros(2, channels, height, width, dtype=torch.uint8)).shape == (
        2,
        2,
    )


def test_a_depth_that_no_such_network_has_is_refused() -> None:
    with pytest.raises(ValueError, match="depth is 21: it must be 6n"):
        cifar_resnet(CIFAR, 21)


@cache
def _report() -> Split:
    return load_task("cifar10", Source(data_folder())).splits["report"]


# The accuracies that were measured for these weights over all of the test set; the report split is a half of it.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "file", "accuracy"), [(20, "resnet20-12fca82f.th", 0.9173), (56, "resnet56-4bfd9763.th", 0.9339)]
)
def test_weights_trained_elsewhere_are_as_accurate_here(depth: int, file: str, accuracy: float) -> None:
    path: Path = weights_folder() / "cifar10-resnet" / file
    report = _report()
    module = build(Architecture(f"resnet{depth}", IMAGENET), CIFAR).eval()
    loaded = load_weights(module, path)
    assert not loaded.unexpected and not loaded.reshaped
    # Counters that PyTorch added after these weights were saved, and that only a training reads.
    assert {name.rpartition(".")[2] for name in loaded.missing} == {"num_batches_tracked"}
    predict = predictor(module)
    logits_BC = np.concatenate([predict(report.inputs[first : first + 256]) for first in range(0, len(report), 256)])
    found = float((logits_BC.argmax(axis=1) == report.labels).mean())
    standard_error = (accuracy * (1 - accuracy) / len(report)) ** 0.5
    assert found == pytest.approx(accuracy, abs=3 * standard_error)
