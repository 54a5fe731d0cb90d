import csv
import dataclasses
import gzip
import hashlib
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from training.data.published import DataMissingError, PublishedFile, PublishedSet
from training.data.readers import row_keys
from training.task import SPLIT_NAMES, Source, Task, load_task
from training.tasks.ag_news import PUBLISHED, SUBSET, load

pytestmark = pytest.mark.slow

WORDS = ("minister", "goal", "shares", "software", "talks", "season", "profit", "space")


def make_csv(first: int, rows: int) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for number in range(first, first + rows):
        label = number % 4
        writer.writerow([label + 1, f"{WORDS[label]} {number}", f"{WORDS[label + 4]} #39;s day, {number * 7}"])
    return text.getvalue().encode()


FULL, PART, TEST = make_csv(0, 600), make_csv(0, 300), make_csv(5000, 100)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


SMALL_PUBLISHED = dataclasses.replace(
    PUBLISHED, files=(PublishedFile("train.csv", sha256(FULL)), PublishedFile("test.csv", sha256(TEST)))
)
SMALL_SUBSET = PublishedFile(SUBSET.name, sha256(PART))


def rows_of(task: Task) -> tuple[int, int]:
    sizes = {name: len(split) for name, split in task.splits.items()}
    return sizes["train"] + sizes["val"] + sizes["calibration"], sizes["gate"] + sizes["report"]


def test_the_full_set_is_preferred(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, content in {"train.csv": FULL, "train_subset.csv": PART, "test.csv": TEST}.items():
        (tmp_path / name).write_bytes(content)
    assert rows_of(load(Source(tmp_path), SMALL_PUBLISHED, SMALL_SUBSET)) == (600, 100)
    assert not caplog.records


def test_the_subset_stands_in_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, content in {"train_subset.csv.gz": PART, "test.csv.gz": TEST}.items():
        (tmp_path / name).write_bytes(gzip.compress(content))
    with caplog.at_level(logging.WARNING):
        task = load(Source(tmp_path), SMALL_PUBLISHED, SMALL_SUBSET)
    assert rows_of(task) == (300, 100)
    assert "train_subset.csv of 300 rows stands in for the full train.csv" in caplog.text


def test_a_download_is_of_the_full_set(tmp_path: Path) -> None:
    for name, content in {"train_subset.csv": PART, "test.csv": TEST}.items():
        (tmp_path / name).write_bytes(content)
    there = tmp_path / "published"
    there.mkdir()
    (there / "train.csv").write_bytes(FULL)
    published = dataclasses.replace(SMALL_PUBLISHED, base_url=f"{there.as_uri()}/")
    assert rows_of(load(Source(tmp_path, download=True), published, SMALL_SUBSET)) == (600, 100)


def test_without_any_training_rows_the_full_files_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_bytes(TEST)
    with pytest.raises(DataMissingError, match=r"train\.csv not found"):
        load(Source(tmp_path), SMALL_PUBLISHED, SMALL_SUBSET)


@pytest.fixture
def small_task(tmp_path: Path) -> Task:
    for name, content in {"train.csv": FULL, "test.csv": TEST}.items():
        (tmp_path / name).write_bytes(content)
    return load(Source(tmp_path), SMALL_PUBLISHED, SMALL_SUBSET)


def test_texts_keep_their_labels_through_the_cut(small_task: Task) -> None:
    encoder = small_task.encoder()
    for split in small_task.splits.values():
        for row, label in zip(split.inputs, split.labels, strict=True):
            first = encoder.encode(WORDS[label])
            np.testing.assert_array_equal(row[: len(first)], first)


def test_rows_are_padded_on_the_right_with_zeros_only(small_task: Task) -> None:
    inputs = small_task.splits["train"].inputs
    lengths = (inputs != 0).sum(axis=1)
    assert inputs.shape[1] == 96
    assert all((row[:length] != 0).all() for row, length in zip(inputs, lengths, strict=True))


def test_the_tokenizer_has_seen_no_word_of_the_other_splits(tmp_path: Path) -> None:
    marked = make_csv(0, 600) + b'"1","zyzzyva zyzzyva","zyzzyva zyzzyva zyzzyva"\n' * 50
    (tmp_path / "train.csv").write_bytes(FULL)
    (tmp_path / "test.csv").write_bytes(marked[len(FULL) :] + TEST)
    test_file = PublishedFile("test.csv", sha256(marked[len(FULL) :] + TEST))
    published: PublishedSet = dataclasses.replace(SMALL_PUBLISHED, files=(SMALL_PUBLISHED.files[0], test_file))
    task = load(Source(tmp_path), published, SMALL_SUBSET)
    vocabulary = json.loads(task.files["tokenizer.json"])["model"]["vocab"]
    assert "minister" in vocabulary
    assert not [piece for piece in vocabulary if "zy" in piece]


@pytest.fixture(scope="module")
def task(real_data: Path) -> Task:
    return load_task("ag_news", Source(real_data))


def test_every_published_row_is_in_one_split(task: Task) -> None:
    trained, held_out = rows_of(task)
    assert held_out == 7600
    # A train row that the test part holds as well is left out; there are few.
    assert trained in range(41_300, 41_343) or trained in range(119_000, 120_001)
    keys = [set(row_keys(task.splits[name].inputs)) for name in SPLIT_NAMES]
    assert len(set.union(*keys)) == sum(map(len, keys))


def test_classes_are_balanced_as_the_authors_say(task: Task) -> None:
    test = np.concatenate([task.splits[name].labels for name in ("gate", "report")])
    np.testing.assert_array_equal(np.bincount(test), [1900] * 4)
    shares = np.bincount(task.splits["train"].labels) / len(task.splits["train"])
    assert np.all(np.abs(shares - 0.25) < 0.01)


def test_few_tokens_are_unknown_and_few_texts_cut(task: Task) -> None:
    inputs = task.splits["val"].inputs
    assert (inputs == 1).sum() / (inputs != 0).sum() < 0.001
    assert (inputs[:, -1] != 0).mean() < 0.02


def test_a_text_sent_to_a_server_becomes_the_row_it_was_trained_as(task: Task, real_data: Path) -> None:
    encoder = task.encoder()
    rows = {row.tobytes() for name in ("gate", "report") for row in task.splits[name].inputs}
    content = gzip.decompress((real_data / "ag-news" / "test.csv.gz").read_bytes()).decode()
    for _, title, description in list(csv.reader(io.StringIO(content, newline="")))[:200]:
        ids = encoder.encode(f"{title} {description}")
        assert np.pad(ids, (0, 96 - len(ids))).tobytes() in rows


def test_the_subset_on_disk_is_a_part_of_the_published_rows(real_data: Path) -> None:
    content = gzip.decompress((real_data / "ag-news" / "train_subset.csv.gz").read_bytes())
    assert hashlib.md5(content).hexdigest() == "ecf9b5727a0a0dbc1790c5d5b2bcfa00"
    assert sha256(content) == SUBSET.sha256
