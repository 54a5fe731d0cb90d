"""Selection: which of a source's rows become samples, of which class and in which split. Plain arrays in and out.

Shape suffixes: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.parts import PARTS, shares_of
from training.data.published import DataError
from training.data.rows import Fault
from training.data.stage import Staged
from training.task import SPLIT_NAMES, assign_splits

# A label that fewer rows bear is taken for a slip: five splits could not each have one of them.
MIN_CLASS_ROWS = 5
DIGEST_BYTES = 32  # numpy drops the zeros at a key's end


@dataclass(frozen=True)
class Classes:
    """The classes of a source where they are known: rows are labelled by their names or, with `numbers_from`, by
    their numbers counted from it.
    """

    names: tuple[str, ...]
    numbers_from: int | None = None

    def find(self, label: str) -> int:
        """The class of a label; -1 where it is of none."""
        if label in self.names:
            return self.names.index(label)
        if self.numbers_from is not None and label.removeprefix("-").isdecimal():
            number = int(label) - self.numbers_from
            return number if 0 <= number < len(self.names) else -1
        return -1


@dataclass(frozen=True)
class Selection:
    """`classes_N` and `splits_N` of every staged row; a row without a split is "" and is in none.

    `faults` says why, by row, but for the `held_out` rows: they are in a later part too, and left to that.
    """

    labels: tuple[str, ...]
    classes_N: NDArray[np.int64]
    splits_N: NDArray[np.str_]
    faults: Mapping[int, Fault]
    held_out: int


def select(staged: Staged, known: Classes | None = None) -> Selection:
    """Without `known` the classes are the labels of at least MIN_CLASS_ROWS rows to train with, sorted.

    Rows of the same content are in the same split, and in none where their labels differ. Raises DataError where
    fewer than two classes or empty splits are left.
    """
    classes = known or _find_classes(staged)
    if len(classes.names) < 2:
        raise DataError(
            f"a classifier needs two classes or more; found: {', '.join(classes.names) or 'none'} "
            f"(a label counts with {MIN_CLASS_ROWS} rows or more)"
        )
    class_of = np.array([classes.find(value) for value in staged.label_values] or [-1], np.int64)
    classes_N = class_of[staged.labels_N]
    faults = {int(row): _no_class(staged, int(row), classes) for row in np.flatnonzero(classes_N < 0)}
    sound = np.flatnonzero(classes_N >= 0)
    groups = _group(staged.keys_N[sound])
    low, high = _extremes(groups, classes_N[sound])
    for row, a, b in zip(sound[low != high], low[low != high], high[low != high], strict=True):
        faults[int(row)] = Fault(
            "mislabelled", f"the same content is labelled {classes.names[a]} and {classes.names[b]}"
        )
    parts = staged.parts_N[sound]
    _, last = _extremes(groups, parts)
    kept = sound[(low == high) & (parts == last)]
    splits_N = np.full(len(staged), "", dtype=f"U{max(map(len, SPLIT_NAMES))}")
    shares = shares_of({PARTS[part] for part in np.unique(staged.parts_N)})
    for part, cut in shares.items():
        rows = kept[staged.parts_N[kept] == PARTS.index(part)]
        splits_N[rows] = assign_splits((bytes(key).ljust(DIGEST_BYTES, b"\0") for key in staged.keys_N[rows]), cut)
    _check_filled(splits_N)
    return Selection(classes.names, classes_N, splits_N, faults, int(((low == high) & (parts != last)).sum()))


def _find_classes(staged: Staged) -> Classes:
    to_train_with = staged.parts_N <= PARTS.index("train")
    counts = np.bincount(staged.labels_N[to_train_with], minlength=len(staged.label_values))
    names = [value for value, count in zip(staged.label_values, counts, strict=True) if count >= MIN_CLASS_ROWS]
    numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return Classes(tuple(sorted(names, key=int if numbers else str)))


def _no_class(staged: Staged, row: int, classes: Classes) -> Fault:
    label = staged.label_values[staged.labels_N[row]]
    shown = ", ".join(classes.names[:10]) + (", ..." if len(classes.names) > 10 else "")
    return Fault("mislabelled", f"its label {label[:80]!r} is none of {shown}")


def _group(keys: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """A number for each key, the same for the same key."""
    return np.unique(keys, return_inverse=True)[1]


def _extremes(groups: NDArray[np.intp], values: NDArray[np.generic]) -> Sequence[NDArray[np.int64]]:
    """Of each row the lowest and the highest value in its group."""
    count = int(groups.max(initial=-1)) + 1
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, np.int64)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return low[groups], high[groups]


def _check_filled(splits_N: NDArray[np.str_]) -> None:
    rows = {name: int((splits_N == name).sum()) for name in SPLIT_NAMES}
    if not all(rows.values()):
        told = ", ".join(f"{count} {name}" for name, count in rows.items())
        raise DataError(f"the source has too few sound rows for five splits ({told}): give more")
