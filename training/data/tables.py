"""Tables: CSV, TSV, JSON lines and Parquet files with a label column and the columns of a text or an image.

Their rows are read one at a time, so that what is wrong with a row is that row's fault alone. Rows are named
FILE:NUMBER, by the line in a text file (the last, where a row has several) and by the row in a Parquet file.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from training.data.location import File, Place
from training.data.parts import WHOLE, part_of_table
from training.data.published import DataCorruptError, DataError, DataMissingError
from training.data.rows import Fault, Row

# A longer line is read in pieces, none of which is then a whole row: no file can fill the memory with one line.
MAX_LINE_BYTES = 4 * 2**20
PARQUET_ROWS_AT_ONCE = 64
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PACKED_SUFFIXES = (".gz", ".bz2", ".zst")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """`label` and, in the order in which they are joined, `payload`: one column of images, or those of a text.

    Without a `header` a CSV's columns are named 1, 2, 3...
    """

    label: str
    payload: tuple[str, ...]
    holds: Literal["image", "text"]
    header: bool = True


@dataclass(frozen=True)
class TableReader:
    """Paths of tables -> Rows. `in_parts` tells whether their names say train, val or test."""

    place: Place
    columns: Columns
    in_parts: bool

    def __call__(self, paths: Sequence[str]) -> Iterator[Row]:
        import pyarrow as pa

        for path in paths:
            part = (part_of_table(path) if self.in_parts else None) or WHOLE
            try:
                for number, record in _RECORDS[_suffix(path)](self.place, path, self.columns):
                    yield self._row(f"{path}:{number}", part, record)
            except (OSError, EOFError, pa.ArrowException) as error:
                raise DataCorruptError(f"{path} in {self.place.location} cannot be read on: {error}") from error

    def _row(self, name: str, part: str, record: Record | Fault) -> Row:
        if isinstance(record, Fault):
            return Row(name, part, None, None, record)
        label = _label(record.get(self.columns.label))
        values = [record.get(column) for column in self.columns.payload]
        payload = _image(values[0]) if self.columns.holds == "image" else _text(values)
        if isinstance(payload, Fault):
            return Row(name, part, label, None, payload)
        return Row(name, part, label, payload)


def list_tables(place: Place, files: Sequence[File], suffixes: Sequence[str] = ()) -> tuple[list[File], bool]:
    """The tables among `files`, of any format or of those in `suffixes`, and whether their names tell parts.

    Raises DataMissingError where there are none, and DataError where only some of their names tell a part.
    """
    wanted = suffixes or tuple(_RECORDS)
    tables = [file for file in files if _suffix(file.path) in wanted]
    if not tables:
        raise DataMissingError(f"{place.location} holds no table: give files that end in {', '.join(wanted)}")
    named = {file.path: part_of_table(file.path) for file in tables}
    in_parts = "train" in named.values()
    unnamed = [path for path, part in named.items() if part is None]
    if in_parts and unnamed:
        raise DataError(
            f"{place.location} has a train part, but {', '.join(unnamed[:5])} is of none: name it train, val or test"
        )
    return tables, in_parts


def _suffix(path: str) -> str:
    """The ending that tells the format: .csv of both a.csv and a.csv.gz."""
    lower = path.lower()
    packed = next((end for end in PACKED_SUFFIXES if lower.endswith(end)), "")
    stem, dot, ending = lower.removesuffix(packed).rpartition(".")
    return f"{dot}{ending}" if stem and not (packed and ending == "parquet") else ""


def _delimited(place: Place, path: str, columns: Columns) -> Iterator[tuple[int, Record | Fault]]:
    with place.stream(path) as stream:
        reader = csv.reader(_lines(stream), delimiter=DELIMITERS[_suffix(path)], strict=True)
        names = next(reader, []) if columns.header else None
        if names is not None:
            names = [name.removeprefix("\ufeff").strip() for name in names]
            _check_columns(path, columns, names)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, Fault("corrupt", f"it is no row of a CSV: {error}")
                continue
            if names is None:
                names = [str(number + 1) for number in range(len(fields))]
                _check_columns(path, columns, names)
            if not fields:
                continue  # a blank line
            if len(fields) == len(names):
                yield reader.line_num, dict(zip(names, fields, strict=True))
            else:
                yield (
                    reader.line_num,
                    Fault("corrupt", f"it has {len(fields)} columns where the first has {len(names)}"),
                )


def _json_lines(place: Place, path: str, columns: Columns) -> Iterator[tuple[int, Record | Fault]]:
    with place.stream(path) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, Fault("corrupt", f"it is no JSON: {error}")
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                yield number, Fault("corrupt", f"it is a {type(record).__name__}, not an object")


def _parquet(place: Place, path: str, columns: Columns) -> Iterator[tuple[int, Record | Fault]]:
    from pyarrow.parquet import ParquetFile

    with place.open(path) as opened:
        table = ParquetFile(opened)
        _check_columns(path, columns, table.schema_arrow.names)
        number = 0
        wanted = [columns.label, *columns.payload]
        for batch in table.iter_batches(PARQUET_ROWS_AT_ONCE, columns=wanted):
            for record in batch.to_pylist():
                number += 1
                yield number, record


_RECORDS: dict[str, Callable[[Place, str, Columns], Iterator[tuple[int, Record | Fault]]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}


def _lines(stream: BinaryIO) -> Iterator[str]:
    # What is no UTF-8 is kept for now: the row that holds it is to be named.
    while line := stream.readline(MAX_LINE_BYTES):
        yield line.decode("utf-8", "surrogateescape")


def _check_columns(path: str, columns: Columns, names: Sequence[str]) -> None:
    missing = [column for column in (columns.label, *columns.payload) if column not in names]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(names) or 'none'}")


def _label(value: Any) -> str | None:
    """A label as text: the same whether the column holds numbers or their digits; None where there is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value != value:  # NaN
        return None
    return str(value).strip() or None


def _text(values: Sequence[Any]) -> str | Fault:
    told = [value for value in values if value is not None]
    if others := [value for value in told if not isinstance(value, str)]:
        return Fault("corrupt", f"its text is a {type(others[0]).__name__}")
    text = " ".join(told)
    try:
        text.encode()
    except UnicodeEncodeError:
        return Fault("corrupt", "its text is not UTF-8")
    return text


def _image(value: Any) -> bytes | Fault | None:
    """The bytes of an image: the value, or what it holds under "bytes", as data sets of the Hugging Face hub do."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None or isinstance(content, bytes):
        return content
    return Fault("corrupt", f"its image is a {type(content).__name__}: give the bytes of a PNG or JPEG file")
