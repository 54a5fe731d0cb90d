"""Vision models: uint8 images [B, C, H, W] -> float32 logits [B, classes]. Scaling is part of the module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.encoding import Encoding, ImageEncoding


class Scale(nn.Module):
    """uint8 0..255 -> float32, centred on 0 with about unit spread; the same for every image set."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return (images_BCHW.to(torch.float32) - 127.5) / 64.0


def _conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def convnet(encoding: Encoding, widths: Sequence[int], blocks: int = 1, dropout: float = 0.0) -> nn.Module:
    """Plain convolutions: `blocks` a stage, one stage a width, each stage after the first halving the image."""
    image = _image(encoding)
    layers: list[nn.Module] = [Scale()]
    channels = image.channels
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(_conv_block(channels, width, 2 if stage and not block else 1))
            channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, len(image.labels))]
    return nn.Sequential(*layers, *head)


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2015), projected by 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_block(inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x_BCHW)) + self.shortcut(x_BCHW))


def resnet(encoding: Encoding, widths: Sequence[int], blocks: int = 1, dropout: float = 0.0) -> nn.Module:
    """A CIFAR-style residual network: `blocks` residual blocks a stage, one stage a width."""
    image = _image(encoding)
    layers: list[nn.Module] = [Scale(), _conv_block(image.channels, widths[0])]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(_Residual(channels, width, 2 if stage and not block else 1))
            channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, len(image.labels))]
    return nn.Sequential(*layers, *head)


def _image(encoding: Encoding) -> ImageEncoding:
    if not isinstance(encoding, ImageEncoding):
        raise ValueError(f"a vision model needs an image Encoding, not one of kind {encoding.kind!r}")
    return encoding
