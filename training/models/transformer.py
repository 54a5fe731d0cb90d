"""A compact transformer encoder over texts: int64 tokens [B, L], right-padded, -> float32 logits [B, classes].

Vaswani et al. 2017 with the normalization before each sublayer (Xiong et al. 2020), which trains without a long
warm-up. Padding changes no answer: no token attends to it, and the pooling is masked.

Shape suffixes: B batch, L tokens, W width, N heads, D width of a head.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.encoding import Encoding, TextEncoding
from training.models.pooling import make_pooling
from training.models.text import text_encoding
from training.models.words import Words


class Attention(nn.Module):
    """Every token looks at every token of its text."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.head_width = width // heads
        self.dropout = dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x_BLW: Tensor, seen_B11L: Tensor) -> Tensor:
        query_BNLD, key_BNLD, value_BNLD = (
            project(x_BLW).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed_BNLD = functional.scaled_dot_product_attention(
            query_BNLD, key_BNLD, value_BNLD, seen_B11L, dropout_p=self.dropout if self.training else 0.0
        )
        mixed_BLW: Tensor = self.out(mixed_BNLD.transpose(1, 2).flatten(2))
        return mixed_BLW


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLW: Tensor, seen_B11L: Tensor) -> Tensor:
        x_BLW = x_BLW + self.dropout(self.attention(self.attention_norm(x_BLW), seen_B11L))
        out_BLW: Tensor = x_BLW + self.dropout(self.feedforward(self.feedforward_norm(x_BLW)))
        return out_BLW


class LearnedPositions(nn.Module):
    """One vector a position; tokens past the last one that was learned share its vector."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(positions, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, x_BLW: Tensor) -> Tensor:
        places_L = torch.arange(x_BLW.shape[1], device=x_BLW.device)
        placed_BLW: Tensor = x_BLW + self.embedding(places_L.clamp(max=self.embedding.num_embeddings - 1))
        return placed_BLW


class SinusoidalPositions(nn.Module):
    """Sines and cosines whose wavelengths grow from 2 pi to 20,000 pi; for texts of any length."""

    rates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, x_BLW: Tensor) -> Tensor:
        places_L = torch.arange(x_BLW.shape[1], device=x_BLW.device, dtype=torch.float32)
        angles_LH = places_L[:, None] * self.rates
        # At a fiftieth of their usual size, as the embeddings that they are added to.
        waves_LW = 0.02 * torch.cat([angles_LH.sin(), angles_LH.cos()], dim=-1)
        return x_BLW + waves_LW.to(x_BLW.dtype)


class Transformer(nn.Module):
    def __init__(
        self,
        text: TextEncoding,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        positions: str,
        pooling: str,
        words: Words | None,
        dropout: float,
        word_dropout: float,
    ) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        self.word_dropout = nn.Dropout1d(word_dropout)
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=text.pad_id)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            self.embedding.weight[text.pad_id].zero_()
        learned = positions == "learned"
        self.positions = LearnedPositions(text.max_tokens, width) if learned else SinusoidalPositions(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.pooling = make_pooling(pooling, width)
        self.head = nn.Linear(self.pooling.outputs, len(text.labels))
        self.words = words

    def embed(self, tokens_BL: Tensor) -> Tensor:
        embedded_BLW: Tensor = self.dropout(self.positions(self.word_dropout(self.embedding(tokens_BL))))
        return embedded_BLW

    def seen(self, tokens_BL: Tensor) -> Tensor:
        """Which tokens may be looked at, [B, 1, 1, L]; of a text without tokens its padding, since a softmax over
        nothing is not a number.
        """
        mask_BL = tokens_BL != self.pad_id
        return (mask_BL | ~mask_BL.any(dim=1, keepdim=True))[:, None, None, :]

    def answer(self, x_BLW: Tensor, tokens_BL: Tensor) -> Tensor:
        pooled_BW = self.pooling(self.norm(x_BLW), (tokens_BL != self.pad_id).unsqueeze(-1))
        logits_BC: Tensor = self.head(self.dropout(pooled_BW))
        return logits_BC if self.words is None else logits_BC + self.words(tokens_BL)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x_BLW, seen_B11L = self.embed(tokens_BL), self.seen(tokens_BL)
        for layer in self.layers:
            x_BLW = layer(x_BLW, seen_B11L)
        return self.answer(x_BLW, tokens_BL)


def transformer(
    encoding: Encoding,
    vocabulary: int,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    feedforward: int | None = None,
    positions: Literal["learned", "sinusoidal"] = "learned",
    pooling: Literal["mean", "attention"] = "mean",
    wide: bool = False,
    pairs: int = 0,
    dropout: float = 0.1,
    word_dropout: float = 0.0,
) -> nn.Module:
    """`feedforward` is four times the width unless given. `learned` positions are `max_tokens` of the Encoding.

    `wide` adds a bag of words of the same width, with `pairs` also of neighbours.
    """
    text = text_encoding(encoding)
    if width % (2 * heads):
        raise ValueError(f"width is {width} with {heads} heads: it must be a multiple of {2 * heads}, twice the heads")
    if positions not in ("learned", "sinusoidal"):
        raise ValueError(f"positions is {positions!r}; it is learned or sinusoidal")
    if pooling not in ("mean", "attention"):
        raise ValueError(f"pooling is {pooling!r}; it is mean or attention")
    if pairs and not wide:
        raise ValueError(f"pairs is {pairs} without wide: they are part of the bag of words")
    words = Words(text, vocabulary, width, pairs, dropout, word_dropout) if wide else None
    return Transformer(
        text, vocabulary, width, layers, heads, feedforward or 4 * width, positions, pooling, words, dropout,
        word_dropout,
    )  # fmt: skip
