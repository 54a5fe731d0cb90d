"""Stage: a source's rows on the way into splits. Their contents lie on disk; of each, memory holds what decides on it.

Shape suffixes: N rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from training.data.parts import PARTS
from training.data.rows import FAULT_KINDS, Fault, FaultKind

if TYPE_CHECKING:
    import pyarrow as pa


class Skipped(NamedTuple):
    name: str
    fault: Fault


@dataclass(frozen=True)
class Staged:
    """N sound rows, in the order of the source. `labels_N` counts in `label_values`, `parts_N` in `parts.PARTS`;
    `keys_N` are sha256 digests of their contents. `skipped` are the rows with a fault.
    """

    path: Path
    keys_N: NDArray[np.bytes_]
    parts_N: NDArray[np.int8]
    labels_N: NDArray[np.int32]
    label_values: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.keys_N)

    def contents(self) -> Iterator[tuple[int, list[bytes]]]:
        """(number of the first row, contents) of some hundred rows at a time."""
        return ((first, cast(list[bytes], column)) for first, column in self._read("content"))

    def names(self, rows: Iterable[int]) -> dict[int, str]:
        """The names of some rows."""
        wanted = set(rows)
        return {
            first + offset: str(name)
            for first, column in (self._read("name") if wanted else ())
            for offset, name in enumerate(column)
            if first + offset in wanted
        }

    def _read(self, column: str) -> Iterator[tuple[int, list[object]]]:
        import pyarrow as pa

        with pa.OSFile(str(self.path)) as stream, pa.ipc.open_file(stream) as stored:
            first = 0
            for number in range(stored.num_record_batches):
                values = stored.get_batch(number).column(column).to_pylist()
                yield first, values
                first += len(values)


def stage(tables: "Iterable[pa.Table]", path: Path) -> Staged:
    """Examined rows (`rows.batch_schema`) -> the sound ones in the file `path`, as they come."""
    import pyarrow as pa
    import pyarrow.compute as pc

    codes: dict[str, int] = {}
    skipped: list[Skipped] = []
    keys, parts, labels = [np.empty(0, "S32")], [np.empty(0, np.int8)], [np.empty(0, np.int32)]
    stored_schema = pa.schema({"name": pa.string(), "content": pa.binary()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, stored_schema) as writer:
        for table in tables:
            faulty = pc.is_valid(table.column("kind"))
            for line in table.filter(faulty).select(["name", "kind", "reason"]).to_pylist():
                assert line["kind"] in FAULT_KINDS
                kind: FaultKind = line["kind"]
                skipped.append(Skipped(line["name"], Fault(kind, line["reason"])))
            sound = table.filter(pc.invert(faulty))
            if not len(sound):
                continue
            keys.append(np.array(sound.column("key").to_pylist(), "S32"))
            parts.append(np.array([PARTS.index(part) for part in sound.column("part").to_pylist()], np.int8))
            raw = sound.column("label").to_pylist()
            labels.append(np.array([codes.setdefault(label, len(codes)) for label in raw], np.int32))
            for batch in sound.select(stored_schema.names).combine_chunks().to_batches():
                writer.write_batch(batch.cast(stored_schema))
    return Staged(
        path, np.concatenate(keys), np.concatenate(parts), np.concatenate(labels), tuple(codes), tuple(skipped)
    )
