import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.published import DataCorruptError
from training.data.readers import (
    assign_official,
    cut_official,
    read_cifar_batch,
    read_idx_gz,
    read_labelled_csv,
    row_keys,
    text_keys,
)
from training.task import Split

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])


def test_idx_gives_its_array() -> None:
    np.testing.assert_array_equal(read_idx_gz(gzip.compress(HEADER + PIXELS.tobytes()), axes=3), PIXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + PIXELS.tobytes(), "no whole gzip"),
        (gzip.compress(HEADER + PIXELS.tobytes())[:-9], "no whole gzip"),
        (gzip.compress(HEADER + PIXELS.tobytes()[:-1]), "39 bytes.*asks for 40"),
        (gzip.compress(HEADER + PIXELS.tobytes() + b"x"), "41 bytes.*asks for 40"),
        (gzip.compress(b"\0\0\x08\x01" + HEADER[4:] + PIXELS.tobytes()), "00000801, not with 00000803"),
        (gzip.compress(HEADER[:7]), "no IDX file"),
        (gzip.compress(HEADER[:4] + b"\xff" * 12), "asks for"),
    ],
)
def test_a_damaged_idx_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(DataCorruptError, match=f"images: |images.*{message}"):
        read_idx_gz(content, axes=3, name="images")


def batch(data: Any, labels: Any) -> bytes:
    return pickle.dumps({b"data": data, b"labels": labels, b"filenames": [b"a.png"]}, protocol=3)


def test_a_cifar_batch_gives_planes_of_red_green_blue() -> None:
    row = np.concatenate([np.full(1024, value, np.uint8) for value in (1, 2, 3)])
    row[33] = 9  # second line, second pixel of the red plane
    images, labels = read_cifar_batch(batch(row[None], [7]))
    assert images.shape == (1, 3, 32, 32)
    assert images[0, :, 5, 5].tolist() == [1, 2, 3]
    assert images[0, 0, 1, 1] == 9
    assert labels.dtype == np.int64 and labels.tolist() == [7]


def test_a_batch_pickled_by_python_2_is_read() -> None:
    # What Python 2 wrote: byte strings for names, the old home of numpy's constructor, `align` as a number.
    values = bytes(range(256)) * 12
    python_2 = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
        b"K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + values + b"tb"
        b"U\x06labelsq\x07]q\x08K\x05au."
    )
    images, labels = read_cifar_batch(python_2)
    assert images.tobytes() == values
    assert labels.tolist() == [5]


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    content = pickle.dumps({b"data": Harmful(tmp_path / "ran"), b"labels": []}, protocol=3)
    with pytest.raises(DataCorruptError, match=r"posix\.mkdir|nt\.mkdir"):
        read_cifar_batch(content)
    assert not (tmp_path / "ran").exists()


ROWS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch(ROWS, [1, 2])[:-20], "refused"),
        (b"", "refused"),
        (pickle.dumps([1], protocol=3), "no 'data'"),
        (batch(ROWS.tolist(), [1, 2]), "no 'data'"),
        (batch(ROWS, [1]), "1 labels ask for"),
        (batch(ROWS[:, :3071], [1, 2]), "2 labels ask for"),
        (batch(ROWS.astype(np.float64), [1, 2]), "not uint8"),
        (batch(np.array([Path]), [1, 2]), "refused"),
        (batch(ROWS, [1, 10]), "outside 0..9"),
        (batch(ROWS, [1, True]), "outside 0..9"),
    ],
)
def test_a_damaged_batch_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(DataCorruptError, match=f"data_batch_2 .*{message}"):
        read_cifar_batch(content, "data_batch_2")


def test_csv_rows_become_texts_and_labels_from_zero() -> None:
    content = '"3","Oil, up","He said ""no"" \\ twice"\n"1","Café","\nnew line"\n'.encode()
    texts, labels = read_labelled_csv(content, classes=4)
    assert texts == ['Oil, up He said "no" \\ twice', "Café \nnew line"]
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"1","a","b"\n"5","a","b"\n', "row 2: .*from 1 to 4"),
        (b'"1","a","b"\n"1","a"\n', "row 2: "),
        (b'"1","a","b"\n"1","a","b', "row 2, cannot be read"),
        (b'"0","a","b"\n', "row 1: "),
        (b'"1","a","\xff"\n', "cannot be read"),
        (b"", "no row"),
    ],
)
def test_a_damaged_csv_is_refused_with_its_row(content: bytes, message: str) -> None:
    with pytest.raises(DataCorruptError, match=f"test.csv.*{message}"):
        read_labelled_csv(content, classes=4, name="test.csv")


def test_texts_that_differ_in_blanks_case_and_html_are_one_sample() -> None:
    first, second, other = text_keys(
        ["Fed #39;s <b>rate</b>\\call", "fed's  RATE call ", "fed's rate hall"],
    )
    assert first == second != other


def test_shares_are_those_of_a_train_and_a_test_part() -> None:
    train, test = assign_official(
        row_keys(np.arange(20_000, dtype=np.int64)[:, None]), row_keys(-1 - np.arange(10_000, dtype=np.int64)[:, None])
    )
    assert {name: round(float(np.mean(train == name)), 2) for name in np.unique(train)} == {
        "train": 0.9,
        "val": 0.05,
        "calibration": 0.05,
    }
    assert set(test) == {"gate", "report"}
    assert abs(np.mean(test == "gate") - 0.5) < 0.02


def test_a_train_row_that_the_test_part_holds_is_in_no_other_split() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 4, 4), dtype=np.uint8)
    train = Split(images[:200], np.arange(200))
    test = Split(images[150:], np.arange(150, 300))
    splits = cut_official(train, test)
    assert sorted(np.concatenate([split.labels for split in splits.values()])) == list(range(300))
    assert set(splits["gate"].labels) | set(splits["report"].labels) == set(range(150, 300))


def test_what_has_seen_the_train_part_is_calibrated_on_rows_of_the_test_part_by_exact_counts() -> None:
    images = np.random.default_rng(1).integers(0, 256, (4000, 1, 4, 4), dtype=np.uint8)
    train, test = Split(images[:2000], np.arange(2000)), Split(images[2000:], np.arange(2000, 4000))
    splits = cut_official(train, test, "test")
    counts = {name: len(splits[name]) for name in ("calibration", "gate", "report")}
    assert counts == {"calibration": 200, "gate": 800, "report": 1000}
    assert len(splits["train"]) + len(splits["val"]) == 2000
    assert abs(len(splits["val"]) / 2000 - 0.05) < 0.02
    held_out = np.concatenate([splits["calibration"].labels, splits["gate"].labels, splits["report"].labels])
    assert sorted(held_out) == list(range(2000, 4000))
    assert max(splits["train"].labels.max(), splits["val"].labels.max()) < 2000


def test_a_cut_by_counts_depends_on_the_rows_and_not_on_their_order() -> None:
    images = np.random.default_rng(1).integers(0, 256, (400, 1, 4, 4), dtype=np.uint8)
    train = Split(images[:200], np.arange(200))
    orders = (np.arange(200, 400), np.arange(399, 199, -1))
    one, other = (cut_official(train, Split(images[order], order), "test") for order in orders)
    for name, split in one.items():
        assert sorted(split.labels) == sorted(other[name].labels)


def test_rows_that_are_alike_fall_into_one_split_though_it_is_cut_by_counts() -> None:
    images = np.random.default_rng(1).integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)
    images[60:160] = images[60]  # 40 of them in train, 60 in test
    splits = cut_official(Split(images[:100], np.arange(100)), Split(images[100:], np.arange(100, 200)), "test")
    of_copies = [name for name, split in splits.items() if set(split.labels) & set(range(60, 160))]
    assert len(of_copies) == 1
    assert of_copies[0] in ("calibration", "gate", "report")
