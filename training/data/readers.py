"""Readers of published file formats, and the cut of a train/test set into the five splits.

Shape suffixes: N rows, C channels, H height, W width.
"""

import csv
import gzip
import hashlib
import io
import pickle
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.data.published import DataCorruptError
from training.data.tokenizer import clean
from training.encoding import Array
from training.task import Split, SplitName, assign_splits

TRAIN_SHARES: dict[SplitName, float] = {"train": 0.90, "val": 0.05, "calibration": 0.05}
TEST_SHARES: dict[SplitName, float] = {"gate": 0.5, "report": 0.5}
# Of a set whose published train part a model from elsewhere has seen whole.
SEEN_TRAIN_SHARES: dict[SplitName, float] = {"train": 0.95, "val": 0.05}
UNSEEN_TEST_SHARES: dict[SplitName, float] = {"calibration": 0.1, "gate": 0.4, "report": 0.5}

# The published part that the calibration split is cut from; what sets a threshold must be new to the model.
CalibrationFrom = Literal["train", "test"]

CIFAR_ROW_BYTES = 3 * 32 * 32


def read_idx_gz(content: bytes, axes: int, name: str = "IDX file") -> NDArray[np.uint8]:
    """Content of a gzipped IDX file of unsigned bytes -> uint8 array with `axes` axes.

    The format: two zero bytes, type 0x08, the number of axes, each axis as a big-endian int32, then the
    values. Raises DataCorruptError when the content is otherwise.
    """
    try:
        plain = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataCorruptError(f"{name} is no whole gzip file: {error}") from error
    header_bytes = 4 + 4 * axes
    magic = bytes([0, 0, 8, axes])
    if len(plain) < header_bytes or plain[:4] != magic:
        raise DataCorruptError(
            f"{name} starts with {plain[:4].hex()}, not with {magic.hex()}: no IDX file of {axes} axes"
        )
    shape = tuple(int(size) for size in np.frombuffer(plain, ">u4", count=axes, offset=4))
    expected = header_bytes + int(np.prod(shape, dtype=np.int64))
    if len(plain) != expected:
        raise DataCorruptError(f"{name} holds {len(plain)} bytes; its header of shape {shape} asks for {expected}")
    return np.frombuffer(plain, np.uint8, offset=header_bytes).reshape(shape)


class _BatchUnpickler(pickle.Unpickler):
    """Builds containers, numbers, bytes and uint8 arrays; refuses to look up anything else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _uint8,
        }
        try:
            return allowed[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}") from None


def _empty_array(kind: object, shape: tuple[int, ...], typecode: bytes) -> NDArray[Any]:
    # What numpy's own _reconstruct does, for nothing but plain arrays; the state that follows fills them.
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"it asks for an array of kind {kind!r}")
    return np.ndarray(shape, typecode.decode())


def _uint8(name: str | bytes, align: int = 0, copy: int = 0) -> np.dtype[Any]:
    if name not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it asks for values of type {name!r}, not uint8")
    return np.dtype("u1", align=bool(align), copy=bool(copy))


def read_cifar_batch(content: bytes, name: str = "CIFAR batch") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One CIFAR-10 python batch -> images uint8 [N, 3, 32, 32] and labels int64 [N].

    The batches are pickles: pass only content whose checksum was verified. Even then nothing but uint8
    arrays and plain containers is built. Raises DataCorruptError when the content is otherwise.
    """
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataCorruptError(f"{name} is refused as a CIFAR batch: {error}") from error
    data = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(b"labels") if isinstance(batch, dict) else None
    if not isinstance(data, np.ndarray) or not isinstance(labels, list):
        raise DataCorruptError(f"{name} holds no 'data' array with a list of 'labels'")
    if data.dtype != np.uint8 or data.shape != (len(labels), CIFAR_ROW_BYTES):
        raise DataCorruptError(
            f"{name} holds {data.dtype} {data.shape}; {len(labels)} labels ask for uint8 {len(labels), CIFAR_ROW_BYTES}"
        )
    if not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise DataCorruptError(f"{name} holds labels outside 0..9")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def read_labelled_csv(content: bytes, classes: int, name: str = "CSV file") -> tuple[list[str], NDArray[np.int64]]:
    """UTF-8 CSV of class (counted from 1), title, description -> texts "title description" and labels int64 [N].

    Raises DataCorruptError naming the first row that is otherwise.
    """
    texts: list[str] = []
    labels: list[int] = []
    known = {str(number): number - 1 for number in range(1, classes + 1)}
    try:
        for row in csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True):
            if len(row) != 3 or row[0] not in known:
                raise DataCorruptError(
                    f"{name}, row {len(texts) + 1}: {row[:3]!r} is not a class from 1 to {classes}, a title and a text"
                )
            labels.append(known[row[0]])
            texts.append(f"{row[1]} {row[2]}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataCorruptError(f"{name}, row {len(texts) + 1}, cannot be read: {error}") from error
    if not texts:
        raise DataCorruptError(f"{name} holds no row")
    return texts, np.array(labels, dtype=np.int64)


def row_keys(rows: Array) -> list[bytes]:
    """The identity of each row of an array [N, ...]: the sha256 of its bytes."""
    return [hashlib.sha256(row).digest() for row in np.ascontiguousarray(rows)]


def text_keys(texts: Iterable[str]) -> list[bytes]:
    """The identity of each text: the sha256 of it cleaned as the tokenizer cleans, with no blanks.

    News is printed twice with other line breaks and other remains of HTML; to a model both are one sample.
    """
    return [hashlib.sha256("".join(text.split()).encode()).digest() for text in clean(texts)]


def assign_official(
    train_keys: Sequence[bytes], test_keys: Sequence[bytes]
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """The split of each row of a set that is published as train and test, by the rows' identities.

    The published train part becomes train, val and calibration, the test part gate and report. A train
    row that the test part holds too belongs to no split (""), so that no row is in two.
    """
    train, test = assign_splits(train_keys, TRAIN_SHARES), assign_splits(test_keys, TEST_SHARES)
    held_out = set(test_keys)
    train[[key in held_out for key in train_keys]] = ""
    return train, test


def assign_unseen(train_keys: Sequence[bytes], test_keys: Sequence[bytes]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """As `assign_official`, for models that have seen all of the published train part.

    The test part becomes calibration, gate and report, in the order of hashes and by count: of 10,000 rows without
    duplicates exactly 1,000, 4,000 and 5,000. Rows that are alike fall into one split.
    """
    train = assign_splits(train_keys, SEEN_TRAIN_SHARES)
    held_out = set(test_keys)
    train[[key in held_out for key in train_keys]] = ""
    draws = np.array([int.from_bytes(hashlib.sha256(key).digest()[:8], "big") for key in test_keys], dtype=np.uint64)
    ends = np.round(np.cumsum(list(UNSEEN_TEST_SHARES.values()))[:-1] * len(draws)).astype(np.int64)
    edges = np.sort(draws)[ends]
    names = np.array(list(UNSEEN_TEST_SHARES), dtype=np.str_)
    return train, names[np.searchsorted(edges, draws, side="right")]


def cut_official(train: Split, test: Split, calibration_from: CalibrationFrom = "train") -> dict[SplitName, Split]:
    """Published train and test images -> the five splits, as `assign_official` draws them, or `assign_unseen`."""
    seen = calibration_from == "test"
    assigned = (assign_unseen if seen else assign_official)(row_keys(train.inputs), row_keys(test.inputs))
    shares = (SEEN_TRAIN_SHARES, UNSEEN_TEST_SHARES) if seen else (TRAIN_SHARES, TEST_SHARES)
    parts = zip((train, test), assigned, shares, strict=True)
    return {
        name: Split(part.inputs[names == name], part.labels[names == name])
        for part, names, shared in parts
        for name in shared
    }
