import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.own_data import png, texts, write_images, write_jsonl
from training.data import pack as pack_module
from training.data.published import DataError
from training.data.skipping import TooManySkippedError
from training.task import SPLIT_NAMES, Source, Task, load_task

ROOT = Path(__file__).parents[3]
SMALL = {"height": 4, "width": 4, "channels": 1}


def _load(tmp_path: Path, **params: Any) -> Task:
    source = Source(tmp_path / "set", reader="local", cache_dir=tmp_path / "cache")
    return load_task("image_folder", source, {**SMALL, **params})


def _packed(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").iterdir() if path.is_dir())


def _facts(tmp_path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((_packed(tmp_path)[-1] / "packed.json").read_text())
    return facts


def test_every_row_is_in_one_split_with_its_label(tmp_path: Path) -> None:
    write_images(tmp_path / "set")
    task = _load(tmp_path)
    expected = {task.encoder().encode(png(seed)).tobytes(): seed % 2 for seed in range(200)}
    found = {
        row.tobytes(): int(label)
        for split in task.splits.values()
        for row, label in zip(split.inputs, split.labels, strict=True)
    }
    assert found == expected
    assert sum(len(split) for split in task.splits.values()) == 200
    facts = _facts(tmp_path)
    assert facts["items"] == 200
    assert {name: sum(part["classes"].values()) for name, part in facts["splits"].items()} == {
        name: len(task.splits[name]) for name in SPLIT_NAMES
    }


def test_a_source_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "set")
    first = _load(tmp_path)
    monkeypatch.setattr(pack_module, "stage", None)  # what would read again
    assert _load(tmp_path).data_hash == first.data_hash
    assert len(_packed(tmp_path)) == 1


def test_a_changed_source_or_encoding_is_packed_anew(tmp_path: Path) -> None:
    write_images(tmp_path / "set")
    hashes = {_load(tmp_path).data_hash, _load(tmp_path, height=5).data_hash}
    write_images(tmp_path / "set", 2, first=200)
    hashes.add(_load(tmp_path).data_hash)
    os.utime(tmp_path / "set" / "cat" / "00000.png", ns=(1, 1))
    again = _load(tmp_path)
    assert len(hashes) == 3
    assert len(_packed(tmp_path)) == 4
    assert again.data_hash in hashes  # the same contents, read again


def test_a_grown_source_keeps_its_cut(tmp_path: Path) -> None:
    write_images(tmp_path / "set")
    before = {row.tobytes(): name for name, split in _load(tmp_path).splits.items() for row in split.inputs}
    write_images(tmp_path / "set", 100, first=200)
    after = {row.tobytes(): name for name, split in _load(tmp_path).splits.items() for row in split.inputs}
    assert len(after) == 300
    assert {key: after[key] for key in before} == before


def test_a_damaged_cache_is_packed_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "set")
    data_hash = _load(tmp_path).data_hash
    (_packed(tmp_path)[0] / "train" / "inputs.npy").write_bytes(b"torn")
    assert _load(tmp_path).data_hash == data_hash
    assert "Packing it anew" in caplog.text


def test_nothing_is_left_of_a_packing_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "set")

    def broken(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(pack_module, "write_facts", broken)
    with pytest.raises(OSError, match="no room"):
        _load(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def _spoil(folder: Path) -> None:
    """Five unusable images of 205, of every kind."""
    (folder / "cat" / "torn.png").write_bytes(png(1)[:50])
    (folder / "cat" / "void.png").write_bytes(b"")
    (folder / "stray.png").write_bytes(png(1000))
    for label in ("cat", "dog"):
        (folder / label / "both.png").write_bytes(png(1001))


def test_unusable_items_are_counted_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _spoil(write_images(tmp_path / "set"))
    task = _load(tmp_path, max_skipped=0.05)
    assert sum(len(split) for split in task.splits.values()) == 200
    assert _facts(tmp_path)["skipped"] == {"corrupt": 1, "empty": 1, "mislabelled": 3}
    with (_packed(tmp_path)[0] / "skipped.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["name"], row["kind"]) for row in rows} == {
        ("cat/torn.png", "corrupt"),
        ("cat/void.png", "empty"),
        ("stray.png", "mislabelled"),
        ("cat/both.png", "mislabelled"),
        ("dog/both.png", "mislabelled"),
    }
    assert "skipped 5 of 205 items: 1 corrupt (cat/torn.png: the image is damaged" in caplog.text
    assert "1 empty (cat/void.png: it has no bytes)" in caplog.text


def test_too_many_unusable_items_fail_the_run(tmp_path: Path) -> None:
    _spoil(write_images(tmp_path / "set"))
    with pytest.raises(
        TooManySkippedError, match=r"5 of 205 items: 1 corrupt \(cat/torn\.png.*At most 1\.00% may"
    ) as caught:
        _load(tmp_path)
    (named,) = (tmp_path / "cache").iterdir()
    assert str(named) in str(caught.value)
    assert len(named.read_text().splitlines()) == 6
    _load(tmp_path, max_skipped=0.05)
    assert _packed(tmp_path)
    assert not named.exists()  # it is in the packed folder now
    with pytest.raises(TooManySkippedError, match=r"1 corrupt, 1 empty, 3 mislabelled of 205 items"):
        _load(tmp_path, max_skipped=0.02)  # of what was packed under a wider limit


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_limit_that_is_no_share_is_refused(tmp_path: Path, share: float) -> None:
    write_images(tmp_path / "set", 4)
    with pytest.raises(ValueError, match=f"max_skipped is {share}: it is a share"):
        _load(tmp_path, max_skipped=share)


def test_texts_of_a_table_become_a_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [*texts(300), {"text": "  ", "label": "cat"}, {"text": "no label"}]
    write_jsonl(tmp_path / "set.jsonl", records)
    source = Source(tmp_path / "set.jsonl", reader="local", cache_dir=tmp_path / "cache")
    params = {"title_column": "title", "max_tokens": 16, "vocabulary_size": 300, "name": "pets"}
    with caplog.at_level(logging.INFO):
        task = load_task("text_table", source, params)
    encoder = task.encoder()
    expected = {}
    for record in records[:300]:
        ids = encoder.encode(f"{record['title']} {record['text']}").tolist()
        expected[tuple(ids + [0] * (16 - len(ids)))] = record["label"]
    assert sum(len(split) for split in task.splits.values()) == 300
    for split in task.splits.values():
        for row, label in zip(split.inputs.tolist(), split.labels, strict=True):
            assert expected[tuple(row)] == task.encoding.labels[label]
    assert (task.name, task.encoding.labels) == ("pets", ("cat", "dog"))
    assert _facts(tmp_path)["skipped"] == {"empty": 2}
    assert "vocabulary_size" in caplog.text
    again = load_task("text_table", source, params)
    assert again.data_hash == task.data_hash
    assert again.files == task.files


def test_the_tokenizer_is_learned_from_the_train_split_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set" / "train.jsonl", texts(300))
    write_jsonl(
        tmp_path / "set" / "test.jsonl", [{**record, "text": f"qqqqq {record['text']}"} for record in texts(60, 900)]
    )
    source = Source(tmp_path / "set", reader="local", cache_dir=tmp_path / "cache")
    task = load_task("text_table", source, {"vocabulary_size": 300, "vocabulary": "words"})
    assert "qqqqq" not in json.loads(task.files["tokenizer.json"])["model"]["vocab"]
    assert len(task.splits["gate"]) + len(task.splits["report"]) == 60


def test_a_given_tokenizer_is_part_of_what_is_packed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set.jsonl", texts(300))
    source = Source(tmp_path / "set.jsonl", reader="local", cache_dir=tmp_path / "cache")
    first = load_task("text_table", source, {"vocabulary_size": 300})
    (tmp_path / "tokenizer.json").write_bytes(first.files["tokenizer.json"])
    second = load_task("text_table", source, {"tokenizer": str(tmp_path / "tokenizer.json")})
    assert second.files == first.files
    np.testing.assert_array_equal(first.splits["train"].inputs, second.splits["train"].inputs)
    assert len(_packed(tmp_path)) == 2


def test_images_in_parquet_are_the_same_task_as_in_a_folder(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    write_images(tmp_path / "set")
    paths = sorted((tmp_path / "set").rglob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    labels = [("cat", "dog").index(path.parent.name) for path in paths]
    parquet.write_table(pa.table({"image": images, "label": labels}), tmp_path / "set.parquet")
    source = Source(tmp_path / "set.parquet", reader="local", cache_dir=tmp_path / "cache")
    table = load_task("image_table", source, {**SMALL, "labels": ["cat", "dog"]})
    assert table.data_hash == _load(tmp_path).data_hash
    assert table.encoding == _load(tmp_path).encoding


def test_a_source_that_cannot_be_read_on_fails(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set" / "a.jsonl", texts(300))
    (tmp_path / "set" / "b.jsonl.gz").write_bytes(b"\x1f\x8b\x08\0 torn")
    source = Source(tmp_path / "set", reader="local", cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match=r"b\.jsonl\.gz in .* cannot be read on"):
        load_task("text_table", source)


LARGE = """
import resource, sys
from pathlib import Path
from training.task import Source, load_task
size = int(sys.argv[2])
source = Source(Path(sys.argv[1]) / "set", reader="local", cache_dir=Path(sys.argv[1]) / "cache")
task = load_task("image_folder", source, {"height": size, "width": size})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_packing_holds_a_part_of_the_set_at_a_time(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 2000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    peaks = {}
    for side in (4, 250):
        command = [sys.executable, "-c", LARGE, str(tmp_path), str(side)]
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks[side] = int(made.stdout)
    packed_bytes = 2000 * 3 * 250 * 250
    assert packed_bytes > 256 * 2**20  # so that it is mapped
    assert peaks[250] - peaks[4] < packed_bytes / 4
