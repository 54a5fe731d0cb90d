"""Text models: int64 tokens [B, L], right-padded, -> float32 logits [B, classes].

Padding changes no answer: every pooling is masked, and the backward direction reads each row
reversed within its own length. That is what packed sequences do, in operations that export.
"""

import torch
from torch import Tensor, nn

from training.encoding import Encoding, TextEncoding


class Lstm(nn.Module):
    """A bidirectional LSTM with masked maximum and mean pooling over time, beside a linear bag of words.

    The two logits are added ("wide and deep", Cheng et al. 2016): on some thousand texts the words alone tell most,
    and learn it with less harm from embeddings that need not serve the LSTM too. Their sum is divided by the root
    of their number, as a tf-idf vector is by its norm: a mean would be the smaller, the longer the text.
    """

    def __init__(
        self, text: TextEncoding, vocabulary: int, embedding: int, hidden: int, dropout: float, word_dropout: float
    ) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        # Whole words at a time: what a few words give away must be learned from the others too.
        self.word_dropout = nn.Dropout1d(word_dropout)
        self.dropout = nn.Dropout(dropout)
        self.embedding = _embedding(text, vocabulary, embedding, scale=0.1)
        self.forward_lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.backward_lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.head = nn.Linear(4 * hidden, len(text.labels))
        self.words = _embedding(text, vocabulary, embedding, scale=0.01)
        self.words_head = nn.Linear(embedding, len(text.labels))

    def forward(self, tokens_BL: Tensor) -> Tensor:
        mask_BL1 = (tokens_BL != self.pad_id).unsqueeze(-1)
        logits: Tensor = self._by_order(tokens_BL, mask_BL1) + self._by_words(tokens_BL, mask_BL1)
        return logits

    def _by_order(self, tokens_BL: Tensor, mask_BL1: Tensor) -> Tensor:
        embedded_BLE = self.dropout(self.word_dropout(self.embedding(tokens_BL)))
        ahead_BLH, _ = self.forward_lstm(embedded_BLE)
        behind_BLH, _ = self.backward_lstm(_reverse(embedded_BLE, mask_BL1))
        # Pooling ignores order, so the backward states need not be turned round again.
        states_BLH = torch.cat([ahead_BLH, behind_BLH], dim=-1)
        peak_BH = states_BLH.masked_fill(~mask_BL1, -1.0).amax(dim=1)
        pooled = torch.cat([peak_BH, _masked_mean(states_BLH, mask_BL1)], dim=-1)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def _by_words(self, tokens_BL: Tensor, mask_BL1: Tensor) -> Tensor:
        words_BLE = self.word_dropout(self.words(tokens_BL))
        lengths_B1 = mask_BL1.sum(dim=1).clamp(min=1).to(words_BLE.dtype)
        logits: Tensor = self.words_head(self.dropout(_masked_mean(words_BLE, mask_BL1) * lengths_B1.sqrt()))
        return logits


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
        logits: Tensor = self.body(_masked_mean(self.embedding(tokens_BL), mask_BL1))
        return logits


def lstm(
    encoding: Encoding, vocabulary: int, embedding: int, hidden: int, dropout: float = 0.0, word_dropout: float = 0.0
) -> nn.Module:
    return Lstm(_text(encoding), vocabulary, embedding, hidden, dropout, word_dropout)


def bag_of_embeddings(
    encoding: Encoding, vocabulary: int, embedding: int, hidden: int, dropout: float = 0.0
) -> nn.Module:
    return BagOfEmbeddings(_text(encoding), vocabulary, embedding, hidden, dropout)


def _embedding(text: TextEncoding, vocabulary: int, size: int, scale: float) -> nn.Embedding:
    """Embeddings that start at `scale` instead of 1: rare words never unlearn the noise that they begin with."""
    made = nn.Embedding(vocabulary, size, padding_idx=text.pad_id)
    with torch.no_grad():
        made.weight.mul_(scale)
    return made


def _masked_mean(values_BLH: Tensor, mask_BL1: Tensor) -> Tensor:
    weights_BL1 = mask_BL1.to(values_BLH.dtype)
    return (values_BLH * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1.0)


def _reverse(values_BLE: Tensor, mask_BL1: Tensor) -> Tensor:
    """Each row reversed within its own length; what lies past the length is arbitrary and masked later."""
    lengths_B1 = mask_BL1.squeeze(-1).sum(dim=1, keepdim=True)
    positions_L = torch.arange(values_BLE.shape[1], device=values_BLE.device)
    indices_BL = (lengths_B1 - 1 - positions_L).clamp(min=0)
    return values_BLE.gather(1, indices_BL.unsqueeze(-1).expand(-1, -1, values_BLE.shape[2]))


def _text(encoding: Encoding) -> TextEncoding:
    if not isinstance(encoding, TextEncoding):
        raise ValueError(f"a text model needs a text Encoding, not one of kind {encoding.kind!r}")
    return encoding
