import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.training.models.conftest import LENGTHS
from training.encoding import TextEncoding
from training.models.recurrent import Cell, Recurrent, recurrent

TEXT = TextEncoding(max_tokens=12, labels=("a", "b", "c"))
CELLS: dict[Cell, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def _model(cell: Cell, **options: object) -> Recurrent:
    torch.manual_seed(1)
    made = recurrent(TEXT, cell, vocabulary=50, embedding=8, hidden=6, dropout=0.3, **options).eval()
    assert isinstance(made, Recurrent)
    nn.init.normal_(made.embedding.weight)  # as large as trained ones
    return made


def _packed(reference: nn.RNNBase, embedded: Tensor) -> list[Tensor]:
    """The states of each row's own tokens, as torch finds them in a packed sequence."""
    packed = pack_padded_sequence(embedded, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    return [row[:length] for row, length in zip(states, LENGTHS, strict=True)]


@pytest.mark.parametrize("cell", CELLS)
def test_a_bidirectional_layer_answers_as_torchs_own_on_packed_sequences(tokens: Tensor, cell: Cell) -> None:
    model = _model(cell)
    reference = CELLS[cell](8, 6, batch_first=True, bidirectional=True)
    weights = dict(model.get_submodule(f"forward_{cell}").named_parameters())
    backward = model.get_submodule(f"backward_{cell}").named_parameters()
    reference.load_state_dict(weights | {f"{name}_reverse": value for name, value in backward})
    states = _packed(reference, model.embedding(tokens))
    pooled = torch.stack([torch.cat([row.amax(dim=0), row.mean(dim=0)]) for row in states])
    assert model.words is not None
    by_words = [
        model.words.head(model.words.embedding(row[:length]).sum(dim=0) / length**0.5)
        for row, length in zip(tokens, LENGTHS, strict=True)
    ]
    torch.testing.assert_close(model(tokens), model.head(pooled) + torch.stack(by_words), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_each_direction_of_a_stack_is_torchs_own_on_packed_sequences(tokens: Tensor, cell: Cell) -> None:
    model = _model(cell, layers=2, wide=False, pooling="mean")
    ahead, behind = (model.get_submodule(f"{direction}_{cell}") for direction in ("forward", "backward"))
    assert isinstance(ahead, nn.RNNBase) and isinstance(behind, nn.RNNBase)
    turned = torch.zeros_like(tokens)
    for row, source, length in zip(turned, tokens, LENGTHS, strict=True):
        row[:length] = source[:length].flip(0)
    means = [
        torch.stack([row.mean(dim=0) for row in _packed(stack, model.embedding(texts))])
        for stack, texts in ((ahead, tokens), (behind, turned))
    ]
    torch.testing.assert_close(model(tokens), model.head(torch.cat(means, dim=1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("silenced", ["forward", "backward"])
def test_both_directions_read_the_order_of_the_text(tokens: Tensor, cell: Cell, silenced: str) -> None:
    model = _model(cell)
    for parameter in model.get_submodule(f"{silenced}_{cell}").parameters():
        nn.init.zeros_(parameter)
    row = tokens[2:3]
    swapped = row.clone()
    swapped[0, [0, 5]] = row[0, [5, 0]]
    assert (model(row) - model(swapped)).abs().max() > 1e-4


def test_attention_weighs_the_tokens_of_a_text_and_no_padding(tokens: Tensor) -> None:
    model = _model("gru", pooling="attention", wide=False)
    states = torch.randn(len(LENGTHS), max(LENGTHS), 12)
    mask = (tokens != 0).unsqueeze(-1)
    pooled = model.pooling(states, mask)
    for row, length, got in zip(states, LENGTHS, pooled, strict=True):
        hidden, score = model.pooling.get_submodule("hidden"), model.pooling.get_submodule("score")
        weights = score(hidden(row[:length]).tanh()).softmax(dim=0)
        torch.testing.assert_close(got, (weights * row[:length]).sum(dim=0))
    assert (pooled[2] - states[2].mean(dim=0)).abs().max() > 1e-3


def test_the_words_alone_are_answered_whatever_their_order(tokens: Tensor) -> None:
    model = _model("lstm")
    nn.init.zeros_(model.head.weight)
    row = tokens[2:3]
    torch.testing.assert_close(model(row.flip(1)), model(row))
    other = row.clone()
    other[0, 3] = 49 if row[0, 3] != 49 else 48
    assert (model(row) - model(other)).abs().max() > 1e-5


def test_the_weights_of_an_lstm_keep_the_names_that_saved_models_have() -> None:
    names = {name.partition(".")[0] for name in _model("lstm").state_dict()}
    assert names == {"embedding", "forward_lstm", "backward_lstm", "head", "words"}


def test_parts_that_are_left_out_have_no_weights() -> None:
    names = {name.partition(".")[0] for name in _model("gru", bidirectional=False, wide=False).state_dict()}
    assert names == {"embedding", "forward_gru", "head"}


@pytest.mark.parametrize(
    ("options", "message"), [({"layers": 0}, "layers is 0"), ({"pooling": "last"}, "pooling is 'last'; it is one of")]
)
def test_what_cannot_be_built_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model("gru", **options)
