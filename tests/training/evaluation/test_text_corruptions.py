import numpy as np
import pytest

from training.evaluation.text_corruptions import SHARES, TEXT_CORRUPTIONS, corrupt_text

TEXT = " ".join(["wind", "storm", "rock", "a", "42"] * 400)


def _corrupt(text: str, name: str, severity: int, seed: int = 0) -> str:
    return corrupt_text(text, name, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("severity", range(1, len(SHARES) + 1))
def test_about_the_share_of_words_is_changed(severity: int) -> None:
    words, share = TEXT.split(), SHARES[severity - 1]
    kept = len(_corrupt(TEXT, "dropped words", severity).split())
    assert 1 - kept / len(words) == pytest.approx(share, abs=0.05)
    for name in ("typing errors", "capitals"):
        after = _corrupt(TEXT, name, severity).split()
        assert len(after) == len(words)
        changeable = [i for i, word in enumerate(words) if len(word) > 1 and word.isalpha()]
        changed = np.mean([words[i] != after[i] for i in changeable])
        # A slip may double back: two equal letters swapped, or a letter replaced by itself.
        assert 0.8 * share - 0.03 <= changed <= share + 0.05


def test_a_slip_is_one_letter_and_no_other_word_is_touched() -> None:
    words = TEXT.split()
    for before, after in zip(words, _corrupt(TEXT, "typing errors", 5).split(), strict=True):
        assert abs(len(before) - len(after)) <= 1
        assert len(before) > 1 or before == after


@pytest.mark.parametrize("name", TEXT_CORRUPTIONS)
def test_a_text_keeps_a_word_and_the_same_seed_the_same_text(name: str) -> None:
    for seed in range(20):
        assert _corrupt("a", name, 5, seed).strip()
        assert _corrupt("ab cd", name, 5, seed).strip()
    assert _corrupt(TEXT, name, 3) == _corrupt(TEXT, name, 3)
    assert _corrupt(TEXT, name, 3) != _corrupt(TEXT, name, 3, seed=1)


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="'rhymes' is not one of typing errors"):
        _corrupt("a b", "rhymes", 1)
    with pytest.raises(ValueError, match="severity is 0: it runs from 1 to 5"):
        _corrupt("a b", "capitals", 0)
