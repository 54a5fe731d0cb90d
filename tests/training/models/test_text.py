import pytest
import torch
from torch import Tensor, nn

from tests.training.models.conftest import LENGTHS
from training.encoding import TextEncoding
from training.models.architecture import Architecture, build
from training.models.text import bag_of_embeddings

TEXT = TextEncoding(max_tokens=12, labels=("a", "b", "c"))
RECURRENT = {"vocabulary": 50, "embedding": 8, "hidden": 6, "dropout": 0.3}
MODELS = {
    "bag": Architecture("bag_of_embeddings", RECURRENT),
    "rnn": Architecture("rnn", RECURRENT),
    "lstm": Architecture("lstm", RECURRENT),
    "gru": Architecture("gru", {**RECURRENT, "layers": 2, "pooling": "attention"}),
    "pairs": Architecture("lstm", {**RECURRENT, "pairs": 40}),
    "one way": Architecture("gru", {**RECURRENT, "bidirectional": False, "wide": False, "pooling": "mean"}),
    "transformer": Architecture("transformer", {"vocabulary": 50, "width": 16}),
    "wide": Architecture("transformer", {"vocabulary": 50, "width": 16, "wide": True, "pairs": 40}),
    "sinusoidal": Architecture(
        "transformer", {"vocabulary": 50, "width": 16, "positions": "sinusoidal", "pooling": "attention"}
    ),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """With weights as large as trained ones, so that what is looked at makes a difference."""
    torch.manual_seed(1)
    made = build(MODELS[request.param], TEXT)
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(2)
    return made.eval()


def test_padding_changes_no_answer(model: nn.Module, tokens: Tensor) -> None:
    padded = torch.cat([tokens, torch.zeros(len(tokens), 9, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(padded), model(tokens), rtol=0, atol=1e-5)


def test_a_text_is_answered_alone_as_in_company(model: nn.Module, tokens: Tensor) -> None:
    together = model(tokens)
    for row, length, logits in zip(tokens, LENGTHS, together, strict=True):
        torch.testing.assert_close(model(row[None, :length])[0], logits, rtol=0, atol=1e-5)


def test_texts_differ_in_their_answers(model: nn.Module, tokens: Tensor) -> None:
    logits = model(tokens)
    assert torch.pdist(logits).min() > 1e-3


def test_a_text_without_tokens_gets_finite_logits(model: nn.Module) -> None:
    assert torch.isfinite(model(torch.zeros(2, 5, dtype=torch.int64))).all()


def test_a_text_longer_than_the_encoding_says_gets_finite_logits(model: nn.Module) -> None:
    assert torch.isfinite(model(torch.full((2, 40), 7))).all()


def test_padding_is_never_trained(model: nn.Module, tokens: Tensor) -> None:
    model.train()
    model(tokens).square().sum().backward()
    tables = [part.weight for part in model.modules() if isinstance(part, nn.Embedding) and part.padding_idx == 0]
    assert tables
    for weight in tables:
        assert not weight[0].any()
        assert not weight.grad[0].any()
        assert weight.grad.any()


def test_a_bag_of_embeddings_knows_no_order(tokens: Tensor) -> None:
    torch.manual_seed(1)
    model = bag_of_embeddings(TEXT, vocabulary=50, embedding=8, hidden=6).eval()
    row = tokens[2:3]
    torch.testing.assert_close(model(row.flip(1)), model(row))


def test_a_step_in_bfloat16_has_finite_gradients(model: nn.Module, tokens: Tensor) -> None:
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
    logits.float().square().sum().backward()
    gradients = [weights.grad for weights in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
