"""Networks of every kind that channels are taken out of, with weights and statistics that are none of a fresh model."""

import torch
from torch import Tensor, nn

from training.encoding import Encoding, ImageEncoding, TextEncoding
from training.models.architecture import Architecture, build
from training.models.vision import Scale

IMAGE = ImageEncoding(height=8, width=8, channels=3, labels=("a", "b", "c"))
TEXT = TextEncoding(max_tokens=6, labels=("calm", "wild"))

NETWORKS: dict[str, tuple[Architecture, Encoding]] = {
    "convnet": (Architecture("convnet", {"widths": [16, 24], "blocks": 2}), IMAGE),
    "resnet": (Architecture("resnet", {"widths": [16, 24], "blocks": 2}), IMAGE),
    "resnet20": (Architecture("resnet20", {"mean": [0.4], "std": [0.2]}), IMAGE),
    "resnet18": (Architecture("torchvision/resnet18"), IMAGE),
    "mobilenet_v2": (Architecture("torchvision/mobilenet_v2"), IMAGE),
    "mobilenet_v3": (Architecture("torchvision/mobilenet_v3_small"), IMAGE),
    "joined": (Architecture(f"{__name__}:joined"), IMAGE),
    "flattened": (Architecture(f"{__name__}:flattened"), IMAGE),
    "bag": (Architecture("bag_of_embeddings", {"vocabulary": 30, "embedding": 8, "hidden": 16}), TEXT),
    "transformer": (Architecture("transformer", {"vocabulary": 30, "width": 16}), TEXT),
}


class Joined(nn.Module):
    """Two branches side by side, and one of them once more: what is read is made by several layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = Scale()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.both = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 16, 3))
        self.head = nn.Linear(28, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.scale(images_BCHW)
        right = self.right(x)
        both = self.both(torch.cat([self.left(x), right], dim=1))
        logits: Tensor = self.head(torch.cat([both.mean(dim=(2, 3)), right.relu().mean(dim=(2, 3))], dim=1))
        return logits


def joined(encoding: ImageEncoding) -> nn.Module:
    return Joined(len(encoding.labels))


def flattened(encoding: ImageEncoding) -> nn.Module:
    """A convolution whose channels are each many features of the next layer, and a sigmoid, which is not 0 at 0."""
    return nn.Sequential(
        Scale(), nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 16), nn.Sigmoid(),
        nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, len(encoding.labels)),
    )  # fmt: skip


def grouped(encoding: ImageEncoding) -> nn.Module:
    return nn.Sequential(
        Scale(), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, len(encoding.labels)),
    )  # fmt: skip


def network(name: str, seed: int = 0) -> nn.Module:
    """In eval mode, of weights that no symmetry hides."""
    torch.manual_seed(seed)
    module = build(*NETWORKS[name]).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(-1, 1)
                part.bias.uniform_(-0.5, 0.5)
                part.running_mean.uniform_(-0.5, 0.5)
                part.running_var.uniform_(0.5, 2)
    return module


def rows(name: str, count: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(1)
    if NETWORKS[name][1] is TEXT:
        return torch.randint(1, 30, (count, TEXT.max_tokens), generator=random)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=random, dtype=torch.uint8)
