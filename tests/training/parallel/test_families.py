"""The families of models that layout.py knows: cut as they are, they answer as the whole does."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.toys import IMAGES, TEXTS
from tests.training.parallel.test_layout import _by_stages, _images, _tokens
from training.parallel.attention import split_attention
from training.parallel.layout import splits

transformers = pytest.importorskip("training.models.transformer", reason="the model is not there yet")
imagenet = pytest.importorskip("training.models.imagenet", reason="the model is not there yet")


def vit(encoding: Any) -> nn.Module:
    from training.models.torchvision_door import models
    from training.models.vision import Normalize

    network = models().VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16,
        num_classes=len(encoding.labels),
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight, std=0.1)
    made: nn.Module = imagenet.ImageNetwork(network, Normalize(3, [0.5], [0.5]), (8, 8))
    return made


def _transformer() -> nn.Module:
    made: nn.Module = transformers.transformer(TEXTS, vocabulary=40, width=16, pooling="attention")
    return made


@pytest.mark.parametrize(("module", "inputs", "layers"), [(_transformer(), _tokens(), 4), (vit(IMAGES), _images(), 4)])
def test_a_known_model_is_taken_apart(module: nn.Module, inputs: Tensor, layers: int) -> None:
    module.eval()
    with torch.no_grad():
        expected = module(inputs)
        split_attention(module)
        torch.testing.assert_close(_by_stages(module, inputs, 2), expected)
    assert len(splits(module)) == layers
    for layer, split in splits(module):
        assert all(isinstance(layer.get_submodule(name), nn.Linear) for name in (*split.columns, *split.rows))
