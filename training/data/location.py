"""Where a source lies: a path, s3://, gs://, or any address that fsspec knows, behind one file system interface.

Arrow's own file systems read local disks, S3 and Google Cloud Storage. Keys come from the environment, as the vendors
document it (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; GOOGLE_APPLICATION_CREDENTIALS); AWS_ENDPOINT_URL names another
S3 server than Amazon's. Other schemes need their fsspec driver installed.
"""

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from training.address import is_uri
from training.data.published import DataError, DataMissingError

READ_AHEAD_BYTES = 2**20
UNREACHABLE = "Check the address, the network and the credentials in the environment"


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
    filesystem, path = _open_filesystem(text)
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
        raise DataError(f"{text} cannot be read: {error}. {UNREACHABLE}") from error


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


def _open_filesystem(location: str) -> tuple[Any, str]:
    """pyarrow FileSystem and the path in it."""
    from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

    scheme, separator, rest = location.partition("://")
    if not separator or scheme == "file":
        return LocalFileSystem(), Path(rest if separator else location).resolve().as_posix()
    try:
        if scheme in ("s3", "gs"):
            bucket, _, path = rest.partition("/")
            filesystem, _ = FileSystem.from_uri(f"{scheme}://{bucket}{_endpoint() if scheme == 's3' else ''}")
            return filesystem, f"{bucket}/{path}".rstrip("/")
        from fsspec.core import url_to_fs

        driver, path = url_to_fs(location)
        return PyFileSystem(FSSpecHandler(driver)), path
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{location} cannot be opened: {error}. {UNREACHABLE}") from error


def _endpoint() -> str:
    # Amazon's own tools read these names; Arrow does not.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f"?endpoint_override={quote(endpoint, safe='')}" if endpoint else ""
