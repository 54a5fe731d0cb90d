import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.encoding import TextEncoding
from training.models.text import Lstm, bag_of_embeddings, lstm

TEXT = TextEncoding(max_tokens=12, labels=("a", "b", "c"))
LENGTHS = [7, 1, 12, 4]


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(0)
    batch = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    for row, length in zip(batch, LENGTHS, strict=True):
        row[:length] = torch.randint(1, 50, (length,))
    return batch


def _model(make) -> nn.Module:
    torch.manual_seed(1)
    return make(TEXT, vocabulary=50, embedding=8, hidden=6, dropout=0.3).eval()


@pytest.mark.parametrize("make", [lstm, bag_of_embeddings])
def test_padding_changes_no_answer(make, tokens: Tensor) -> None:
    model = _model(make)
    padded = torch.cat([tokens, torch.zeros(len(tokens), 9, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(padded), model(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [lstm, bag_of_embeddings])
def test_a_text_is_answered_alone_as_in_company(make, tokens: Tensor) -> None:
    model = _model(make)
    together = model(tokens)
    for row, length, logits in zip(tokens, LENGTHS, together, strict=True):
        torch.testing.assert_close(model(row[None, :length])[0], logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [lstm, bag_of_embeddings])
def test_a_text_without_tokens_gets_finite_logits(make) -> None:
    assert torch.isfinite(_model(make)(torch.zeros(2, 5, dtype=torch.int64))).all()


def test_states_agree_with_torchs_own_packed_bidirectional_lstm(tokens: Tensor) -> None:
    model = _model(lstm)
    assert isinstance(model, Lstm)
    reference = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
    weights = dict(model.forward_lstm.named_parameters())
    weights |= {f"{name}_reverse": value for name, value in model.backward_lstm.named_parameters()}
    reference.load_state_dict(weights)
    embedded = model.embedding(tokens)
    packed = pack_padded_sequence(embedded, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    pooled = [
        torch.cat([row[:length].amax(dim=0), row[:length].mean(dim=0)])
        for row, length in zip(states, LENGTHS, strict=True)
    ]
    by_words = [
        model.words_head(model.words(row[:length]).sum(dim=0) / length**0.5)
        for row, length in zip(tokens, LENGTHS, strict=True)
    ]
    expected = model.head(torch.stack(pooled)) + torch.stack(by_words)
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("silenced", ["forward_lstm", "backward_lstm"])
def test_both_directions_read_the_order_of_the_text(tokens: Tensor, silenced: str) -> None:
    model = _model(lstm)
    for parameter in getattr(model, silenced).parameters():
        nn.init.zeros_(parameter)
    nn.init.normal_(model.embedding.weight)  # as large as trained ones
    row = tokens[2:3]
    swapped = row.clone()
    swapped[0, [0, 5]] = row[0, [5, 0]]
    assert (model(row) - model(swapped)).abs().max() > 1e-4


def test_the_words_alone_are_answered_whatever_their_order(tokens: Tensor) -> None:
    model = _model(lstm)
    assert isinstance(model, Lstm)
    nn.init.zeros_(model.head.weight)
    row = tokens[2:3]
    torch.testing.assert_close(model(row.flip(1)), model(row))
    other = row.clone()
    other[0, 3] = 49 if row[0, 3] != 49 else 48
    assert (model(row) - model(other)).abs().max() > 1e-5


@pytest.mark.parametrize("table", ["embedding", "words"])
def test_padding_is_never_trained(tokens: Tensor, table: str) -> None:
    model = _model(lstm).train()
    model(tokens).square().sum().backward()
    weight = getattr(model, table).weight
    assert not weight[0].any()
    assert not weight.grad[0].any()
    assert weight.grad[tokens[0, 0]].any()


def test_a_bag_of_embeddings_knows_no_order(tokens: Tensor) -> None:
    model = _model(bag_of_embeddings)
    row = tokens[2:3]
    torch.testing.assert_close(model(row.flip(1)), model(row))
