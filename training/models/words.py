"""Words: a text's logits by the words that it has and by which stand beside each other, whatever else it says.

Added to the logits of a network that reads in order ("wide and deep", Cheng et al. 2016): on ten thousand texts the
words alone tell most, and learn it with less harm from embeddings that need not serve the network too.

Shape suffixes: B batch, L tokens, E embedding, C classes, P pairs of neighbours.
"""

import torch
from torch import Tensor, nn

from training.encoding import TextEncoding
from training.models.text import small_embedding

# Knuth's multiplicative hash (2^32 over the golden ratio): neighbouring numbers fall far from each other.
_MULTIPLIER = 2_654_435_761


class Words(nn.Module):
    """Int64 tokens [B, L], right-padded -> float32 logits [B, C]; padding changes nothing.

    A sum over words is divided by the root of their number, as a tf-idf vector is by its norm: a mean would be the
    smaller, the longer the text. With `pairs` above 0 each two neighbours count as a word of their own, by logits that
    they share with whatever else falls into the same one of so many buckets (Joulin et al. 2016, section 2).
    """

    def __init__(
        self, text: TextEncoding, vocabulary: int, embedding: int, pairs: int, dropout: float, word_dropout: float
    ) -> None:
        super().__init__()
        if pairs < 0:
            raise ValueError(f"pairs is {pairs}: give a number of buckets, or 0 for no pairs")
        classes = len(text.labels)
        self.pad_id, self.buckets = text.pad_id, pairs
        self.dropout = nn.Dropout(dropout)
        # Whole words at a time: what a few words give away must be learned from the others too.
        self.word_dropout = nn.Dropout1d(word_dropout)
        self.embedding = small_embedding(text, vocabulary, embedding, scale=0.01)
        self.head = nn.Linear(embedding, classes)
        self.pairs = nn.Embedding(pairs + 1, classes, padding_idx=0) if pairs else None
        if self.pairs is not None:
            nn.init.zeros_(self.pairs.weight)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        mask_BL = tokens_BL != self.pad_id
        words_BE = self.dropout(_over_root(self.word_dropout(self.embedding(tokens_BL)), mask_BL))
        logits_BC: Tensor = self.head(words_BE)
        if self.pairs is None:
            return logits_BC
        # Without a first token: a text of one, padded or not, has no pair but has a sum, of nothing.
        beside_BP = mask_BL[:, 1:] & mask_BL[:, :-1]
        ids_BP = torch.where(beside_BP, 1 + self._bucket(tokens_BL[:, :-1], tokens_BL[:, 1:]), 0)
        return logits_BC + _over_root(self.word_dropout(self.pairs(ids_BP)), beside_BP)

    def _bucket(self, first_BP: Tensor, second_BP: Tensor) -> Tensor:
        return (first_BP * _MULTIPLIER + second_BP) % self.buckets


def _over_root(values_BLE: Tensor, mask_BL: Tensor) -> Tensor:
    """Their sum over L where the mask is set, by the root of how many those are."""
    weights_BL1 = mask_BL.unsqueeze(-1).to(values_BLE.dtype)
    return (values_BLE * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1.0).sqrt()
