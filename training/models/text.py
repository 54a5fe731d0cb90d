"""What models of text share, and the simplest of them.

Int64 tokens [B, L], right-padded, -> float32 logits [B, classes]. Padding changes no answer.
"""

import torch
from torch import Tensor, nn

from training.encoding import Encoding, TextEncoding
from training.models.pooling import masked_mean


class BagOfEmbeddings(nn.Module):
    """The mean embedding of a text through one hidden layer (after fastText, Joulin et al. 2016)."""

    def __init__(self, text: TextEncoding, vocabulary: int, embedding: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=text.pad_id)
        self.body = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(embedding, hidden), nn.ReLU(), nn.Linear(hidden, len(text.labels))
        )

    def forward(self, tokens_BL: Tensor) -> Tensor:
        mask_BL1 = (tokens_BL != self.pad_id).unsqueeze(-1)
        logits: Tensor = self.body(masked_mean(self.embedding(tokens_BL), mask_BL1))
        return logits


def bag_of_embeddings(
    encoding: Encoding, vocabulary: int, embedding: int, hidden: int, dropout: float = 0.0
) -> nn.Module:
    return BagOfEmbeddings(text_encoding(encoding), vocabulary, embedding, hidden, dropout)


def small_embedding(text: TextEncoding, vocabulary: int, size: int, scale: float) -> nn.Embedding:
    """Embeddings that start at `scale` instead of 1: rare words never unlearn the noise that they begin with."""
    made = nn.Embedding(vocabulary, size, padding_idx=text.pad_id)
    with torch.no_grad():
        made.weight.mul_(scale)
    return made


def text_encoding(encoding: Encoding) -> TextEncoding:
    """`encoding` itself; raises ValueError where it is not of texts."""
    if not isinstance(encoding, TextEncoding):
        raise ValueError(f"a text model needs a text Encoding, not one of kind {encoding.kind!r}")
    return encoding
