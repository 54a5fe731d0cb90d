import bz2
import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.training.data.own_data import texts, write_jsonl
from training.data import tables as tables_module
from training.data.location import open_location
from training.data.published import DataCorruptError, DataError, DataMissingError
from training.data.rows import Row
from training.data.tables import Columns, TableReader, list_tables

TEXT = Columns("label", ("title", "text"), "text")
IMAGE = Columns("label", ("image",), "image")


def _rows(path: Path, columns: Columns = TEXT) -> list[Row]:
    place, files = open_location(path)
    tables, in_parts = list_tables(place, files)
    return list(TableReader(place, columns, in_parts)([file.path for file in tables]))


def _csv(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue().encode()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.CSV.gz", "a.tsv.bz2", "a.jsonl", "a.ndjson", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    records = [*texts(150), {"text": 'two\nlines, "quoted"\tund größer', "label": "cat", "title": ""}]
    path, plain = tmp_path / name, name.lower()
    if plain.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(records), path)
    elif plain.endswith(("jsonl", "ndjson")):
        write_jsonl(path, records)
    else:
        content = _csv(records, "\t" if ".tsv" in plain else ",")
        pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(Path(plain).suffix, bytes)
        path.write_bytes(pack(content))
    rows = _rows(path)
    assert [(row.label, row.payload) for row in rows] == [(r["label"], f"{r['title']} {r['text']}") for r in records]
    assert {row.part for row in rows} == {"whole"}


def test_rows_are_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('label,text,title\ncat,"two\nlines",x\ndog,y,x\n')
    assert [row.name for row in _rows(tmp_path / "a.csv")] == ["a.csv:3", "a.csv:4"]
    parquet.write_table(pa.Table.from_pylist(texts(70)), tmp_path / "b.parquet")
    assert _rows(tmp_path / "b.parquet")[66].name == "b.parquet:67"


def test_a_damaged_row_is_that_rows_fault_alone(tmp_path: Path) -> None:
    lines = [
        b"label,title,text",
        b"cat,a,one",
        b"dog,b",
        b"dog,b,\xff\xfe",
        b'dog,"b"x,y',
        b"",
        b",c,no label",
        b"cat,d,two",
    ]
    (tmp_path / "a.csv").write_bytes(b"\r\n".join(lines))
    rows = _rows(tmp_path / "a.csv")
    assert [row.payload for row in rows if not row.fault and row.label] == ["a one", "d two"]
    assert {row.name: row.fault.reason for row in rows if row.fault} == {
        "a.csv:3": "it has 2 columns where the first has 3",
        "a.csv:4": "its text is not UTF-8",
        "a.csv:5": "it is no row of a CSV: ',' expected after '\"'",
    }
    assert [row.label for row in rows if row.payload == "c no label"] == [None]


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    lines = ["label,title,text", 'cat,a,"never closed', *(f"dog,b,line {n} {'x' * 80}" for n in range(5_000))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    rows = _rows(tmp_path / "a.csv")
    assert [row.fault.kind for row in rows if row.fault] == ["corrupt"]
    assert sum(row.fault is None for row in rows) > 3_000


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "MAX_LINE_BYTES", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "' + "x" * 1000 + '"}\n{"text": "b", "label": "cat", "title": "t"}\n')
    rows = _rows(tmp_path / "a.jsonl")
    assert {row.fault.kind for row in rows if row.fault} == {"corrupt"}
    assert [row.payload for row in rows if not row.fault] == ["t b"]


def test_lines_that_are_no_object_are_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '[1]\n{"text": "a", "label": 3}\n\n{"text": 5, "label": "x"}\n{"te\n' + "[" * 100_000
    )
    rows = _rows(tmp_path / "a.jsonl", Columns("label", ("text",), "text"))
    assert [row.name for row in rows] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:4", "a.jsonl:5", "a.jsonl:6"]
    assert [row.fault.kind if row.fault else row.label for row in rows] == ["corrupt", "3"] + ["corrupt"] * 3


def test_a_csv_without_header_numbers_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("3,Title,words\n1,Other,more\n")
    rows = _rows(tmp_path / "a.csv", Columns("1", ("2", "3"), "text", header=False))
    assert [(row.label, row.payload) for row in rows] == [("3", "Title words"), ("1", "Other more")]


def test_a_header_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufefflabel,title,text\ncat,a,b\n".encode())
    assert [row.label for row in _rows(tmp_path / "a.csv")] == ["cat"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    if name == "a.csv":
        (tmp_path / name).write_text("class,title\nx,y\n")
    else:
        parquet.write_table(pa.table({"class": ["x"], "title": ["y"]}), tmp_path / name)
    with pytest.raises(DataError, match=r"has no column label, text; it has: class, title"):
        _rows(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([3, None, 0], ["3", None, "0"]),
        ([3.0, float("nan"), 2.5], ["3", None, "2.5"]),
        ([" a ", "", None], ["a", None, None]),
    ],
)
def test_labels_are_text_whatever_their_column_holds(
    tmp_path: Path, values: list[Any], labels: list[str | None]
) -> None:
    parquet.write_table(pa.table({"label": values, "text": ["x"] * 3}), tmp_path / "a.parquet")
    assert [row.label for row in _rows(tmp_path / "a.parquet", Columns("label", ("text",), "text"))] == labels


def test_images_are_bytes_or_a_struct_that_holds_them(tmp_path: Path) -> None:
    for number, images in enumerate(
        ([b"a", None], [{"bytes": b"a", "path": "1.png"}, {"bytes": None, "path": "2.png"}])
    ):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(pa.table({"image": images, "label": [0, 1]}), path)
        assert [row.payload for row in _rows(path, IMAGE)] == [b"a", None]
    parquet.write_table(pa.table({"image": ["a.png"], "label": [0]}), tmp_path / "named.parquet")
    (row,) = _rows(tmp_path / "named.parquet", IMAGE)
    assert row.fault == ("corrupt", "its image is a str: give the bytes of a PNG or JPEG file")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz"])
def test_a_torn_file_fails_with_its_name(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        parquet.write_table(pa.Table.from_pylist(texts()), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(_csv(texts(2000))))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataCorruptError, match=rf"{name} in .* cannot be read on"):
        _rows(tmp_path / name)


def test_names_of_files_and_folders_tell_parts(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "data/Train_2.jsonl", "validation.jsonl", "test/x.jsonl"):
        write_jsonl(tmp_path / name, texts(1))
    assert sorted((row.name.split(":")[0], row.part) for row in _rows(tmp_path)) == [
        ("data/Train_2.jsonl", "train"),
        ("test/x.jsonl", "test"),
        ("train-00000-of-00002.jsonl", "train"),
        ("validation.jsonl", "val"),
    ]


def test_a_table_of_no_part_beside_a_train_part_is_refused(tmp_path: Path) -> None:
    for name in ("train.jsonl", "testimonials.jsonl"):
        write_jsonl(tmp_path / name, texts(1))
    with pytest.raises(DataError, match=r"but testimonials\.jsonl is of none: name it train, val or test"):
        _rows(tmp_path)


def test_a_place_without_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(DataMissingError, match=r"holds no table: give files that end in \.csv, \.tsv, \.jsonl"):
        _rows(tmp_path)
