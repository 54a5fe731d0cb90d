"""Small models: an encoder of torch's layers, which says how it is taken apart; a ViT; a chain with BatchNorm."""

from typing import Any

from torch import Tensor, nn

from training.encoding import TextEncoding
from training.models.imagenet import ImageNetwork
from training.models.torchvision_door import models
from training.models.vision import Normalize, Scale
from training.parallel.layout import Piece


class Encoder(nn.Module):
    def __init__(self, text: TextEncoding, vocabulary: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(text.labels))
        for parameter in self.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)  # biases that begin at 0 would hide a mistake

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x = tokens_BL
        for piece in self.pieces():
            x = piece.run(x, tokens_BL)
        return x

    def pieces(self) -> list[Piece]:
        def layer(block: nn.Module) -> Any:
            return lambda x_BLW, tokens_BL: block(x_BLW, src_key_padding_mask=tokens_BL == self.pad_id)

        def answer(x_BLW: Tensor, tokens_BL: Tensor) -> Tensor:
            seen_BL1 = (tokens_BL != self.pad_id).unsqueeze(-1)
            logits_BC: Tensor = self.head((self.norm(x_BLW) * seen_BL1).sum(dim=1) / seen_BL1.sum(dim=1))
            return logits_BC

        layers = [Piece((f"layers.{number}",), layer(block)) for number, block in enumerate(self.layers)]
        embed = Piece(("embedding",), lambda tokens_BL, inputs: self.embedding(tokens_BL))
        return [embed, *layers, Piece(("norm", "head"), answer)]


def encoder(
    encoding: TextEncoding, vocabulary: int = 40, width: int = 16, layers: int = 2, dropout: float = 0.0
) -> nn.Module:
    return Encoder(encoding, vocabulary, width, layers, dropout)


def normalized(encoding: Any, width: int = 12) -> nn.Module:
    """A chain with batch statistics over images."""
    pixels = encoding.channels * encoding.height * encoding.width
    return nn.Sequential(
        Scale(), nn.Flatten(), nn.Linear(pixels, width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, len(encoding.labels)),
    )  # fmt: skip


def vit(encoding: Any) -> nn.Module:
    """torchvision's, of two layers on two by two patches."""
    network = models().VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16,
        num_classes=len(encoding.labels),
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight, std=0.1)
    return ImageNetwork(network, Normalize(3, [0.5], [0.5]), (8, 8))
