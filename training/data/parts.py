"""Parts: how a source says which of its files are to train with and which to test, and what follows for its splits."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from training.data.published import DataError
from training.data.readers import TEST_SHARES, TRAIN_SHARES
from training.task import SplitName

WHOLE = "whole"
# A part that comes later holds out: what it shares with an earlier one is left out there.
PARTS = (WHOLE, "train", "val", "test")

_WHOLE_SHARES: dict[SplitName, float] = {"train": 0.60, "val": 0.08, "calibration": 0.10, "gate": 0.12, "report": 0.10}
# By the parts that there are.
_SHARES: dict[frozenset[str], dict[str, dict[SplitName, float]]] = {
    frozenset({WHOLE}): {WHOLE: _WHOLE_SHARES},
    frozenset({"train", "test"}): {"train": TRAIN_SHARES, "test": TEST_SHARES},
    frozenset({"train", "val"}): {"train": TRAIN_SHARES, "val": TEST_SHARES},
    frozenset({"train", "val", "test"}): {
        "train": {"train": 1.0},
        "val": {"val": 0.5, "calibration": 0.5},
        "test": TEST_SHARES,
    },
}

_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_NAMES |= {"test": "test", "testing": "test"}
_LEADING_WORD = re.compile(r"[a-z]+")


def part_of_folder(path: str) -> str | None:
    """The part that the first folder of `path` names, as in train/cat/1.png; None where it names none."""
    first, _, rest = path.partition("/")
    return _NAMES.get(first.lower()) if rest else None


def part_of_table(path: str) -> str | None:
    """The part that a folder of `path` or the first word of its file's name says, as in data/train-00000.parquet."""
    for piece in PurePosixPath(path.lower()).parts:
        word = _LEADING_WORD.match(piece)
        if word and word.group() in _NAMES:
            return _NAMES[word.group()]
    return None


def shares_of(parts: Iterable[str]) -> Mapping[str, Mapping[SplitName, float]]:
    """How each part is cut into splits; raises DataError where the parts cannot make up five splits."""
    there = frozenset(parts)
    if there not in _SHARES:
        raise DataError(
            f"the source has {', '.join(sorted(there)) or 'nothing'}: give train and test (or val, or both), "
            "or data without such names, which is then cut into the five splits"
        )
    return _SHARES[there]
