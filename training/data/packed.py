"""Packed sets: a cleaned and encoded source as .npy files, of which any row can be read at once.

A folder holds SPLIT/inputs.npy and SPLIT/labels.npy, the files that the Encoding names, skipped.csv and packed.json,
which has the hash of each array, what the source was, and what became of its rows. No array holds Python objects.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from training.data.published import DataCorruptError
from training.data.rows import Fault
from training.data.selection import Selection
from training.data.stage import Staged
from training.encoding import Array, Encoding, encoding_from_json, encoding_to_json
from training.task import SPLIT_NAMES, Split, SplitName

FACTS_FILE = "packed.json"
SKIPPED_FILE = "skipped.csv"
FORMAT = 1
NO_TOKEN = Fault("empty", "the tokenizer finds no token in its text")
# Larger inputs stay on disk and are memory-mapped: as fast once they were read, and shared by processes.
RESIDENT_BYTES = 256 * 2**20


class NpyWriter:
    """Appends rows to a .npy file whose number of rows is not known before the end."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._row_shape, self._dtype, self.rows = row_shape, dtype, 0
        self._hash = hashlib.sha256()
        self._stream: BinaryIO = path.open("wb")
        self._write_header()
        self._header_bytes = self._stream.tell()

    def append(self, rows: Array) -> None:
        """Rows [n, ...]."""
        assert rows.shape[1:] == self._row_shape and rows.dtype == self._dtype
        content = np.ascontiguousarray(rows).data
        self._stream.write(content)
        self._hash.update(content)
        self.rows += len(rows)

    def close(self) -> dict[str, Any]:
        """Number and sha256 of all rows' bytes."""
        self._stream.seek(0)
        self._write_header()
        # numpy leaves room in a header for the first axis to grow.
        assert self._stream.tell() == self._header_bytes
        self._stream.close()
        row_bytes = self._dtype.itemsize * math.prod(self._row_shape)
        return {"bytes": self.rows * row_bytes, "sha256": self._hash.hexdigest()}

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class Arrays(Protocol):
    """Makes the arrays of a split out of contents, and knows what goes with them."""

    @property
    def encoding(self) -> Encoding: ...
    @property
    def files(self) -> Mapping[str, bytes]: ...
    def encode(self, contents: Sequence[bytes]) -> list[Array | None]: ...
    def statistics(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Written:
    """`splits` says of each its rows, their classes and hashes; `faults` are of rows that could not be encoded."""

    splits: Mapping[SplitName, Mapping[str, Any]]
    faults: Mapping[int, Fault]


@dataclass(frozen=True)
class Packed:
    """What a packed folder holds; `facts` is its packed.json."""

    encoding: Encoding
    splits: Mapping[SplitName, Split]
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]


def write_splits(staged: Staged, selection: Selection, arrays: Arrays, folder: Path) -> Written:
    """The selected rows, encoded, as SPLIT/inputs.npy and SPLIT/labels.npy, in the order of the source."""
    spec = arrays.encoding.input_spec
    writers: dict[str, tuple[NpyWriter, NpyWriter]] = {}
    counts = {name: np.zeros(len(selection.labels), np.int64) for name in SPLIT_NAMES}
    faults: dict[int, Fault] = {}
    for first, contents in staged.contents():
        rows = first + np.flatnonzero(selection.splits_N[first : first + len(contents)] != "")
        encoded = dict(zip(rows.tolist(), arrays.encode([contents[row - first] for row in rows]), strict=True))
        faults |= {row: NO_TOKEN for row, array in encoded.items() if array is None}
        for name in SPLIT_NAMES:
            found = [(row, a) for row, a in encoded.items() if a is not None and selection.splits_N[row] == name]
            if not found:
                continue
            labels = selection.classes_N[[row for row, _ in found]]
            counts[name] += np.bincount(labels, minlength=len(selection.labels))
            if name not in writers:
                writers[name] = (
                    NpyWriter(folder / name / "inputs.npy", found[0][1].shape, spec.dtype),
                    NpyWriter(folder / name / "labels.npy", (), np.dtype(np.int64)),
                )
            for writer, values in zip(writers[name], (np.stack([a for _, a in found]), labels), strict=True):
                writer.append(values)
    splits: dict[SplitName, dict[str, Any]] = {
        name: {
            "rows": writers[name][0].rows,
            "classes": dict(zip(selection.labels, counts[name].tolist(), strict=True)),
            **{part: w.close() for part, w in zip(("inputs", "labels"), writers[name], strict=True)},
        }
        for name in SPLIT_NAMES
        if name in writers
    }
    return Written(splits, faults)


def write_facts(folder: Path, arrays: Arrays, written: Written, facts: Mapping[str, Any]) -> None:
    """The last files of `folder`: what the Encoding names, and packed.json."""
    for name, content in arrays.files.items():
        (folder / name).write_bytes(content)
    whole = {
        **facts,
        "encoding": encoding_to_json(arrays.encoding),
        "splits": written.splits,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in arrays.files.items()},
    }
    (folder / FACTS_FILE).write_text(json.dumps(whole, indent=1, ensure_ascii=False))


def open_packed(folder: Path, resident_bytes: int = RESIDENT_BYTES) -> Packed:
    """The set in `folder`: whole in memory where its inputs take up to `resident_bytes`, else memory-mapped.

    What is read whole is compared with its hash, what is mapped with its size. Raises DataCorruptError.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_text())
        resident = sum(part["inputs"]["bytes"] for part in facts["splits"].values()) <= resident_bytes
        splits = {
            name: Split(
                _open_array(folder / name / "inputs.npy", facts["splits"][name]["inputs"], resident),
                _open_array(folder / name / "labels.npy", facts["splits"][name]["labels"], True),
            )
            for name in SPLIT_NAMES
        }
        files = {name: (folder / name).read_bytes() for name in facts["files"]}
        for name, content in files.items():
            _check(hashlib.sha256(content).hexdigest() == facts["files"][name], folder / name)
        return Packed(encoding_from_json(facts["encoding"]), splits, files, facts)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataCorruptError(f"{folder} is not as it was packed: {error}. Delete it to pack anew") from error


def _open_array(path: Path, expected: Mapping[str, Any], whole: bool) -> Array:
    array: Array = np.load(path, mmap_mode=None if whole else "r", allow_pickle=False)
    _check(array.nbytes == expected["bytes"], path)
    if whole:
        _check(hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() == expected["sha256"], path)
    return array


def _check(holds: bool, path: Path) -> None:
    if not holds:
        raise DataCorruptError(f"{path.name} of {path.parent.name} is another than was written")
