import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training.data.parts import PARTS
from training.data.published import DataError
from training.data.selection import Classes, Selection, select
from training.data.stage import Staged
from training.task import assign_splits

ROWS = 400


def _staged(
    contents: Sequence[str] | None = None, labels: Sequence[str] | None = None, parts: Sequence[str] | None = None
) -> Staged:
    contents = contents or [str(n) for n in range(ROWS)]
    labels = labels or ["ab"[n % 2] for n in range(len(contents))]
    values = tuple(dict.fromkeys(labels))
    return Staged(
        Path(),
        np.array([hashlib.sha256(content.encode()).digest() for content in contents], "S32"),
        np.array([PARTS.index(part) for part in parts or ["whole"] * len(contents)], np.int8),
        np.array([values.index(label) for label in labels], np.int32),
        values,
        (),
    )


def _sizes(selection: Selection) -> dict[str, int]:
    names, counts = np.unique(selection.splits_N, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def test_a_whole_source_is_cut_by_its_contents() -> None:
    selection = select(_staged([str(n) for n in range(1000)]))
    digests = [hashlib.sha256(str(n).encode()).digest() for n in range(1000)]
    shares = {"train": 0.60, "val": 0.08, "calibration": 0.10, "gate": 0.12, "report": 0.10}
    assert selection.splits_N.tolist() == assign_splits(digests, shares).tolist()
    assert any(digest.endswith(b"\0") for digest in digests)  # which numpy would drop
    assert selection.classes_N.tolist() == [n % 2 for n in range(1000)]
    assert not selection.faults


def test_train_and_test_parts_feed_their_own_splits() -> None:
    selection = select(_staged(parts=["train"] * 300 + ["test"] * 100))
    assert set(selection.splits_N[:300]) == {"train", "val", "calibration"}
    assert set(selection.splits_N[300:]) == {"gate", "report"}


def test_three_parts_feed_their_own_splits() -> None:
    selection = select(_staged(parts=["train"] * 200 + ["val"] * 100 + ["test"] * 100))
    assert set(selection.splits_N[:200]) == {"train"}
    assert set(selection.splits_N[200:300]) == {"val", "calibration"}
    assert set(selection.splits_N[300:]) == {"gate", "report"}


def test_duplicates_are_in_the_same_split() -> None:
    selection = select(_staged([str(n // 4) for n in range(ROWS)], ["ab"[n // 4 % 2] for n in range(ROWS)]))
    assert all(len(set(selection.splits_N[first : first + 4])) == 1 for first in range(0, ROWS, 4))
    assert not selection.faults


def test_what_is_held_out_is_not_trained_with() -> None:
    contents = [str(n) for n in range(ROWS)]
    contents[:10] = contents[350:360]  # in train and in test
    selection = select(_staged(contents, parts=["train"] * 300 + ["test"] * 100))
    assert set(selection.splits_N[:10]) == {""}
    assert "" not in selection.splits_N[10:]
    assert selection.held_out == 10
    assert not selection.faults


def test_the_same_content_with_two_labels_is_mislabelled_wherever_it_is() -> None:
    contents = [str(n) for n in range(ROWS)]
    contents[7] = contents[350] = "x"
    labels = ["ab"[n % 2] for n in range(ROWS)]
    selection = select(_staged(contents, labels, ["train"] * 300 + ["test"] * 100))
    assert set(selection.faults) == {7, 350}
    assert selection.faults[7] == ("mislabelled", "the same content is labelled a and b")
    assert selection.splits_N[[7, 350]].tolist() == ["", ""]
    assert selection.held_out == 0


def test_a_label_of_few_rows_is_no_class() -> None:
    labels = ["ab"[n % 2] for n in range(ROWS)]
    labels[0:4] = ["Ab"] * 4
    selection = select(_staged(labels=labels))
    assert selection.labels == ("a", "b")
    assert {row: fault.reason for row, fault in selection.faults.items()} == dict.fromkeys(
        range(4), "its label 'Ab' is none of a, b"
    )
    labels[4] = "Ab"
    assert select(_staged(labels=labels)).labels == ("Ab", "a", "b")


def test_a_label_only_of_test_rows_is_no_class() -> None:
    labels = ["ab"[n % 2] for n in range(300)] + ["abc"[n % 3] for n in range(100)]
    selection = select(_staged(labels=labels, parts=["train"] * 300 + ["test"] * 100))
    assert selection.labels == ("a", "b")
    assert set(selection.faults) == {row for row, label in enumerate(labels) if label == "c"}


def test_labels_that_are_numbers_are_sorted_as_such() -> None:
    assert select(_staged(labels=[str(n % 12) for n in range(ROWS)])).labels == tuple(str(n) for n in range(12))


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [
        (Classes(("a", "b"), 0), "1", 1),
        (Classes(("a", "b"), 1), "1", 0),
        (Classes(("a", "b"), 1), "0", -1),
        (Classes(("a", "b"), -1), "-1", 0),
        (Classes(("a", "b"), 0), "2", -1),
        (Classes(("a", "b")), "1", -1),
        (Classes(("7", "1"), 0), "1", 1),  # by name before by number
        (Classes(("7", "1"), 0), "7", 0),
        (Classes(("a", "b"), 0), "a", 0),
        (Classes(("a", "b"), 0), "A", -1),
    ],
)
def test_a_class_is_known_by_name_or_number(classes: Classes, label: str, expected: int) -> None:
    assert classes.find(label) == expected


def test_one_class_is_no_problem_to_learn() -> None:
    with pytest.raises(DataError, match="needs two classes or more; found: a"):
        select(_staged(labels=["a"] * ROWS))


def test_too_few_rows_for_five_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"too few sound rows for five splits \(\d+ train, \d+ val"):
        select(_staged([str(n) for n in range(12)]))


def test_parts_that_make_no_splits_are_refused() -> None:
    with pytest.raises(DataError, match="the source has train: give train and test"):
        select(_staged(parts=["train"] * ROWS))
