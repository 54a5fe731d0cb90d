import pytest
import torch
from torch import Tensor

from training.encoding import TextEncoding
from training.models.architecture import Architecture, build
from training.models.words import Words

TEXT = TextEncoding(max_tokens=12, labels=("a", "b", "c"))


def _words(pairs: int, vocabulary: int = 50) -> Words:
    """With pairs that have learned something."""
    torch.manual_seed(1)
    made = Words(TEXT, vocabulary, 8, pairs, dropout=0.0, word_dropout=0.0).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.normal_()
            if weight.ndim == 2 and not name.startswith("head"):
                weight[0].zero_()
    return made


def test_padding_changes_no_answer_of_pairs(tokens: Tensor) -> None:
    words = _words(pairs=97)
    padded = torch.cat([tokens, torch.zeros(len(tokens), 5, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(words(padded), words(tokens), rtol=0, atol=1e-5)


def test_words_alone_know_no_order_and_pairs_do(tokens: Tensor) -> None:
    row = tokens[2:3]
    alone, paired = _words(pairs=0), _words(pairs=9973)
    torch.testing.assert_close(alone(row.flip(1)), alone(row))
    assert (paired(row.flip(1)) - paired(row)).abs().max() > 0.1


def test_a_pair_adds_its_buckets_logits_by_the_root_of_how_many_pairs_there_are() -> None:
    words = _words(pairs=9973)
    text = torch.tensor([[4, 7, 9, 4, 7]])
    assert words.pairs is not None
    buckets = [1 + (a * 2_654_435_761 + b) % 9973 for a, b in [(4, 7), (7, 9), (9, 4), (4, 7)]]
    expected = words.pairs.weight[buckets].sum(dim=0) / 2
    words.pairs.weight.data, kept = torch.zeros_like(words.pairs.weight), words.pairs.weight.data
    without = words(text)
    words.pairs.weight.data = kept
    torch.testing.assert_close(words(text)[0], without[0] + expected)


def test_a_text_of_one_word_has_no_pair() -> None:
    words = _words(pairs=9973)
    assert words.pairs is not None
    one = words(torch.tensor([[4]]))
    torch.testing.assert_close(words(torch.tensor([[4, 0, 0]])), one)
    words.pairs.weight.data.zero_()
    torch.testing.assert_close(words(torch.tensor([[4]])), one)


def test_pairs_fall_into_buckets_evenly() -> None:
    words = Words(TEXT, 1, 1, 64, 0.0, 0.0)
    first, second = torch.meshgrid(torch.arange(1, 401), torch.arange(1, 401), indexing="ij")
    counts = torch.bincount(words._bucket(first.flatten(), second.flatten()), minlength=64)
    assert counts.min() > 0.9 * 2500
    assert counts.max() < 1.1 * 2500


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_pairs_without_a_bag_of_words_are_refused(name: str) -> None:
    params = {"vocabulary": 50, "wide": False, "pairs": 40}
    params |= {"embedding": 8, "hidden": 6} if name == "lstm" else {"width": 16}
    with pytest.raises(ValueError, match="pairs is 40 without wide"):
        build(Architecture(name, params), TEXT)


def test_a_negative_number_of_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs is -1"):
        build(Architecture("lstm", {"vocabulary": 50, "embedding": 8, "hidden": 6, "pairs": -1}), TEXT)
