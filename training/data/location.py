"""Where a source lies: the Place of its files, and what says that they are still the ones they were."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from training.address import is_uri
from training.data.published import DataError, DataMissingError
from training.filesystem import CHECK_THE_WAY, AddressError, open_filesystem

READ_AHEAD_BYTES = 2**20


@dataclass(frozen=True)
class File:
    """`path` is relative to its Place; together with the size and the time it is what a change is known by."""

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Place:
    """A folder on a pyarrow FileSystem. Picklable, without keys: each process finds them in its own environment."""

    location: str
    filesystem: Any
    root: str
    remote: bool

    def read(self, path: str, at_most: int) -> bytes:
        """The first `at_most` bytes of a file."""
        with self.filesystem.open_input_stream(f"{self.root}/{path}") as stream:
            return cast(bytes, stream.read(at_most))

    def stream(self, path: str) -> BinaryIO:
        """A file's content from its beginning, unpacked where its name ends in .gz, .bz2 or .zst."""
        packed = "detect" if path.endswith((".gz", ".bz2", ".zst")) else None
        opened = self.filesystem.open_input_stream(
            f"{self.root}/{path}", compression=packed, buffer_size=READ_AHEAD_BYTES
        )
        return io.BufferedReader(opened)

    def open(self, path: str) -> Any:
        """A pyarrow file in which one can seek, as Parquet needs."""
        return self.filesystem.open_input_file(f"{self.root}/{path}")


def open_location(location: str | Path | None) -> tuple[Place, list[File]]:
    """The Place at `location` and its files, sorted by path and without hidden ones (.name).

    A single file is a Place with one file. Raises DataMissingError where there is nothing, and DataError where the
    address cannot be read.
    """
    from pyarrow.fs import FileType

    if location is None:
        raise DataMissingError("this task reads data of your own: pass --data-dir PLACE, a path, s3:// or gs://")
    text = str(location)
    try:
        filesystem, path = open_filesystem(text)
    except AddressError as error:
        raise DataError(str(error)) from error
    remote = is_uri(text) and not text.startswith("file://")
    try:
        info = filesystem.get_file_info(path)
        if info.type == FileType.NotFound:
            raise DataMissingError(f"there is nothing at {text}: pass the folder, file or address that holds the data")
        if info.type == FileType.File:
            folder, _, name = path.rpartition("/")
            return Place(text, filesystem, folder, remote), [File(name, info.size, info.mtime_ns or 0)]
        return Place(text, filesystem, path.rstrip("/"), remote), _list(filesystem, path.rstrip("/"))
    except OSError as error:
        raise DataError(f"{text} cannot be read: {error}. {CHECK_THE_WAY}") from error


def digest_of(files: Iterable[File]) -> str:
    """sha256 over the paths, sizes and times: what says that a source is the one it was."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size_bytes}\0{file.modified_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _list(filesystem: Any, root: str) -> list[File]:
    from pyarrow.fs import FileSelector, FileType

    found = []
    for info in filesystem.get_file_info(FileSelector(root, recursive=True)):
        path = info.path[len(root) + 1 :]
        if info.type == FileType.File and not any(part.startswith(".") for part in path.split("/")):
            found.append(File(path, info.size, info.mtime_ns or 0))
    return sorted(found, key=lambda file: file.path)
