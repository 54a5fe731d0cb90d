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


class Normalize(nn.Module):
    """uint8 0..255 -> float32 (pixel / 255 - mean) / std; `mean` and `std` are one for all channels or one each.

    They are no weights: whoever rebuilds the module gives them again.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} is {list(values)}: give one number, or one for each of {channels} channels")
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        if min(std) <= 0:
            raise ValueError(f"std is {list(std)}: each must be above 0")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return (images_BCHW.to(torch.float32) / 255 - self.mean) / self.std


class ConvBlock(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


def convnet(encoding: Encoding, widths: Sequence[int], blocks: int = 1, dropout: float = 0.0) -> nn.Module:
    """Plain convolutions: `blocks` a stage, one stage a width, each stage after the first halving the image."""
    image = image_encoding(encoding)
    layers: list[nn.Module] = [Scale()]
    channels = image.channels
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(ConvBlock(channels, width, 2 if stage and not block else 1))
            channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, len(image.labels))]
    return nn.Sequential(*layers, *head)


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2015), projected by 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x_BCHW)) + self.shortcut(x_BCHW))


def resnet(encoding: Encoding, widths: Sequence[int], blocks: int = 1, dropout: float = 0.0) -> nn.Module:
    """A CIFAR-style residual network: `blocks` residual blocks a stage, one stage a width."""
    image = image_encoding(encoding)
    layers: list[nn.Module] = [Scale(), ConvBlock(image.channels, widths[0])]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Residual(channels, width, 2 if stage and not block else 1))
            channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, len(image.labels))]
    return nn.Sequential(*layers, *head)


def image_encoding(encoding: Encoding) -> ImageEncoding:
    if not isinstance(encoding, ImageEncoding):
        raise ValueError(f"a vision model needs an image Encoding, not one of kind {encoding.kind!r}")
    return encoding
