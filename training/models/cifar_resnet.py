"""The small residual networks of He et al. 2015, section 4.2: uint8 [B, C, H, W] -> float32 logits [B, classes].

Parameters are named as in the widely used reimplementation by Idelbayev (github.com/akamaster/pytorch_resnet_cifar10),
so that its trained weights fit: build with `mean` [0.485, 0.456, 0.406] and `std` [0.229, 0.224, 0.225] for those.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from training.encoding import Encoding
from training.models.vision import Normalize, image_encoding

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without weights: every second pixel, channels filled up with zeros.

    This is the paper's option A, by which a residual network has as many parameters as its plain counterpart.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner_BCHW = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x_BCHW)))))
        return functional.relu(inner_BCHW + self._shortcut(x_BCHW))

    def _shortcut(self, x_BCHW: Tensor) -> Tensor:
        if self.stride == 1 and not self.added:
            return x_BCHW
        before = self.added // 2
        return functional.pad(x_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))


class CifarResNet(nn.Module):
    """6n + 2 layers: a convolution, three stages of n blocks of widths 16, 32 and 64, and the linear head."""

    def __init__(self, channels: int, classes: int, depth: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth is {depth}: it must be 6n + 2, as 20, 32, 44, 56 and 110 are")
        self.normalize = Normalize(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, stride=2)
        self.linear = nn.Linear(WIDTHS[2], classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BCHW = functional.relu(self.bn1(self.conv1(self.normalize(images_BCHW))))
        x_BCHW = self.layer3(self.layer2(self.layer1(x_BCHW)))
        logits_BC: Tensor = self.linear(x_BCHW.mean(dim=(2, 3)))
        return logits_BC


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    )


def cifar_resnet(
    encoding: Encoding, depth: int, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.25,)
) -> nn.Module:
    """`mean` and `std` are of pixels from 0 to 1, one for all channels or one each."""
    image = image_encoding(encoding)
    return CifarResNet(image.channels, len(image.labels), depth, mean, std)
