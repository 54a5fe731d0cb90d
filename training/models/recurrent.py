"""Recurrent networks over texts: int64 tokens [B, L], right-padded, -> float32 logits [B, classes].

Padding changes no answer: every pooling is masked, and the backward direction reads each row
reversed within its own length. That is what packed sequences do, in operations that export.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.encoding import Encoding, TextEncoding
from training.models.pooling import make_pooling
from training.models.text import small_embedding, text_encoding
from training.models.words import Words

Cell = Literal["rnn", "lstm", "gru"]
_CELLS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}

# ONNX's operator of each cell and the order of its gates, in terms of PyTorch's (lstm: i f g o; gru: r z n).
_ONNX_OPERATORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "RNN_TANH": ("RNN", (0,)),
    "LSTM": ("LSTM", (0, 3, 1, 2)),
    "GRU": ("GRU", (1, 0, 2)),
}


class Recurrent(nn.Module):
    """Two recurrent stacks, one along the text and one against it, pooled over time; beside a linear bag of words."""

    def __init__(
        self,
        text: TextEncoding,
        cell: Cell,
        vocabulary: int,
        embedding: int,
        hidden: int,
        layers: int,
        bidirectional: bool,
        pooling: str,
        words: Words | None,
        dropout: float,
        word_dropout: float,
    ) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        # Whole words at a time: what a few words give away must be learned from the others too.
        self.word_dropout = nn.Dropout1d(word_dropout)
        self.dropout = nn.Dropout(dropout)
        self.embedding = small_embedding(text, vocabulary, embedding, scale=0.1)
        self._directions = [f"{direction}_{cell}" for direction in ("forward", "backward")[: 1 + bidirectional]]
        for direction in self._directions:
            between = dropout if layers > 1 else 0.0
            self.add_module(direction, _CELLS[cell](embedding, hidden, layers, batch_first=True, dropout=between))
        self.pooling = make_pooling(pooling, len(self._directions) * hidden)
        self.head = nn.Linear(self.pooling.outputs, len(text.labels))
        self.words = words

    def forward(self, tokens_BL: Tensor) -> Tensor:
        mask_BL1 = (tokens_BL != self.pad_id).unsqueeze(-1)
        logits_BC = self._by_order(tokens_BL, mask_BL1)
        return logits_BC if self.words is None else logits_BC + self.words(tokens_BL)

    def _by_order(self, tokens_BL: Tensor, mask_BL1: Tensor) -> Tensor:
        embedded_BLE = self.dropout(self.word_dropout(self.embedding(tokens_BL)))
        states = [_run(self.get_submodule(self._directions[0]), embedded_BLE)]
        if len(self._directions) > 1:
            # Pooling ignores order, so the backward states need not be turned round again.
            states.append(_run(self.get_submodule(self._directions[1]), _reverse(embedded_BLE, mask_BL1)))
        logits_BC: Tensor = self.head(self.dropout(self.pooling(torch.cat(states, dim=-1), mask_BL1)))
        return logits_BC


def recurrent(
    encoding: Encoding,
    cell: Cell,
    vocabulary: int,
    embedding: int,
    hidden: int,
    layers: int = 1,
    bidirectional: bool = True,
    pooling: Literal["max_mean", "mean", "attention"] = "max_mean",
    wide: bool = True,
    pairs: int = 0,
    dropout: float = 0.0,
    word_dropout: float = 0.0,
) -> nn.Module:
    """`layers` are stacked within each direction; `wide` adds the bag of words, with `pairs` also of neighbours."""
    text = text_encoding(encoding)
    if layers < 1:
        raise ValueError(f"layers is {layers}: there must be at least one")
    if pairs and not wide:
        raise ValueError(f"pairs is {pairs} without wide: they are part of the bag of words")
    words = Words(text, vocabulary, embedding, pairs, dropout, word_dropout) if wide else None
    return Recurrent(
        text, cell, vocabulary, embedding, hidden, layers, bidirectional, pooling, words, dropout, word_dropout
    )


def _run(cell: nn.Module, inputs_BLE: Tensor) -> Tensor:
    """The states [B, L, hidden] of the last layer of `cell`, started from zero."""
    assert isinstance(cell, nn.RNNBase)
    if torch.onnx.is_in_onnx_export():
        return _as_onnx_operators(cell, inputs_BLE)
    states_BLH: Tensor = cell(inputs_BLE)[0]
    return states_BLH


def _as_onnx_operators(cell: nn.RNNBase, inputs_BLE: Tensor) -> Tensor:
    """ONNX's own operator for each layer. Left to itself, PyTorch's exporter unrolls a plain RNN and whatever lies on
    a first layer, step by step, for the one length of its example.
    """
    operator, gates = _ONNX_OPERATORS[cell.mode]
    attributes: dict[str, Any] = {"hidden_size": cell.hidden_size}
    if operator == "GRU":
        attributes["linear_before_reset"] = 1  # PyTorch resets what the recurrent matrix has given, with its bias

    def ordered(name: str) -> Tensor:
        weight: Tensor = getattr(cell, name)
        size = cell.hidden_size
        return torch.cat([weight[gate * size : (gate + 1) * size] for gate in gates])

    states_LBS = inputs_BLE.transpose(0, 1)
    for layer in range(cell.num_layers):
        biases = torch.cat([ordered(f"bias_ih_l{layer}"), ordered(f"bias_hh_l{layer}")])
        states_L1BH = torch.onnx.ops.symbolic(
            operator,
            (states_LBS, ordered(f"weight_ih_l{layer}")[None], ordered(f"weight_hh_l{layer}")[None], biases[None]),
            attributes,
            dtype=states_LBS.dtype,
            shape=(states_LBS.shape[0], 1, states_LBS.shape[1], cell.hidden_size),
        )
        states_LBS = states_L1BH.squeeze(1)
    return states_LBS.transpose(0, 1)


def _reverse(values_BLE: Tensor, mask_BL1: Tensor) -> Tensor:
    """Each row reversed within its own length; what lies past the length is arbitrary and masked later."""
    lengths_B1 = mask_BL1.squeeze(-1).sum(dim=1, keepdim=True)
    positions_L = torch.arange(values_BLE.shape[1], device=values_BLE.device)
    indices_BL = (lengths_B1 - 1 - positions_L).clamp(min=0)
    return values_BLE.gather(1, indices_BL.unsqueeze(-1).expand(-1, -1, values_BLE.shape[2]))
