"""Text corruptions: what people do to texts - typing errors, dropped words, capitals - in five severities."""

from collections.abc import Callable

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Of these shares of the words, by severity. No published set fixes them: a mild and a heavy hand, and between.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)


def corrupt_text(text: str, name: str, severity: int, generator: np.random.Generator) -> str:
    """`text` with a share of its words changed; it keeps at least one word, and blanks become single spaces.

    Raises ValueError on an unknown name or severity.
    """
    if name not in TEXT_CORRUPTIONS:
        raise ValueError(f"corruption {name!r} is not one of {', '.join(TEXT_CORRUPTIONS)}")
    if not 1 <= severity <= len(SHARES):
        raise ValueError(f"severity is {severity}: it runs from 1 to {len(SHARES)}")
    words = text.split()
    chosen = generator.random(len(words)) < SHARES[severity - 1]
    changed = TEXT_CORRUPTIONS[name](words, chosen, generator)
    return " ".join(word for word in changed if word) or text


def _typos(words: list[str], chosen: np.ndarray, generator: np.random.Generator) -> list[str]:
    return [_mistype(word, generator) if hit else word for word, hit in zip(words, chosen, strict=True)]


def _mistype(word: str, generator: np.random.Generator) -> str:
    """One slip: two letters swapped, one left out, doubled, or hit beside the key."""
    if len(word) < 2:
        return word
    at = int(generator.integers(len(word) - 1))
    kind = int(generator.integers(4))
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[: at + 1] + word[at:]
    return word[:at] + LETTERS[int(generator.integers(len(LETTERS)))] + word[at + 1 :]


def _dropped(words: list[str], chosen: np.ndarray, generator: np.random.Generator) -> list[str]:
    return [word for word, hit in zip(words, chosen, strict=True) if not hit]


def _capitals(words: list[str], chosen: np.ndarray, generator: np.random.Generator) -> list[str]:
    return [word.upper() if hit else word for word, hit in zip(words, chosen, strict=True)]


TEXT_CORRUPTIONS: dict[str, Callable[[list[str], np.ndarray, np.random.Generator], list[str]]] = {
    "typing errors": _typos,
    "dropped words": _dropped,
    "capitals": _capitals,
}
