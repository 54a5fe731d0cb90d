"""Rows: what a source is read as, what is kept of each, and the faults by which some are skipped."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from training.data.published import DataError

if TYPE_CHECKING:
    import pyarrow as pa

FaultKind = Literal["corrupt", "empty", "mislabelled"]
FAULT_KINDS: tuple[FaultKind, ...] = ("corrupt", "empty", "mislabelled")
# Not a row's fault: the source itself cannot be read on.
UNREADABLE = "unreadable"

ROWS_AT_ONCE = 64


class Fault(NamedTuple):
    kind: FaultKind
    reason: str


class Row(NamedTuple):
    """One item as it is read; `part` is one of `parts.PARTS`. What could not be read has a `fault`."""

    name: str
    part: str
    label: str | None
    payload: Any
    fault: Fault | None = None


class Sample(NamedTuple):
    """What is kept of a payload: `key` is its identity, the sha256 of its content [32 bytes]."""

    key: bytes
    content: bytes


class Content(Protocol):
    """Makes Samples of payloads. Picklable: it runs in many processes."""

    def examine(self, payloads: Sequence[Any]) -> list[Sample | Fault]: ...


class RowReader(Protocol):
    """Reads the rows of some files, in their order. Picklable. Raises DataError where it cannot read on."""

    def __call__(self, paths: Sequence[str]) -> Iterator[Row]: ...


@dataclass(frozen=True)
class Examiner:
    """Files -> record batches as `batch_schema` says: the same ones whichever process it runs in."""

    read: RowReader
    content: Content

    def __call__(self, paths: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        rows = self.read(paths)
        try:
            while some := list(islice(rows, ROWS_AT_ONCE)):
                yield _to_batch(some, self.content)
        except DataError as error:
            # As a row, because an exception that crosses processes loses its words among theirs.
            yield _make_batch([(paths[0], "", None, None, None, UNREADABLE, str(error))])


def batch_schema() -> "pa.Schema":
    """name, part, label; key and content of what is kept; kind and reason of the fault of what is not."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "name": text, "part": text, "label": text,
            "key": pa.binary(32), "content": pa.binary(),
            "kind": text, "reason": text,
        }
    )  # fmt: skip


def _to_batch(rows: Sequence[Row], content: Content) -> "pa.RecordBatch":
    sound = [row.payload for row in rows if _fault_before_reading(row) is None]
    examined = iter(content.examine(sound))
    lines: list[tuple[Any, ...]] = []
    for row in rows:
        found: Sample | Fault = _fault_before_reading(row) or next(examined)
        if isinstance(found, Fault):
            lines.append((row.name, row.part, row.label, None, None, found.kind, found.reason))
        else:
            lines.append((row.name, row.part, row.label, found.key, found.content, None, None))
    return _make_batch(lines)


def _fault_before_reading(row: Row) -> Fault | None:
    if row.fault:
        return row.fault
    return Fault("empty", "it has no label") if row.label is None else None


def _make_batch(lines: Iterable[tuple[Any, ...]]) -> "pa.RecordBatch":
    import pyarrow as pa

    schema = batch_schema()
    columns = zip(*lines, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
