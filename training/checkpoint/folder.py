"""Folder: a place for files, on a disk or in an object store, in which no file is ever seen half-written."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from training.filesystem import open_filesystem

Write = Callable[[IO[bytes]], None]
HASHED_AT_ONCE_BYTES = 2**22


class Folder:
    """The folder at `url`: a path, or an address that `open_filesystem` takes, such as s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        from pyarrow.fs import LocalFileSystem

        self.url = url
        self.filesystem, self._root = open_filesystem(url)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """That of the file or folder `name`, or of this folder, within its file system."""
        return f"{self._root}/{name}" if name else self._root

    def inner(self, name: str) -> "Folder":
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def write(self, name: str, content: bytes) -> str:
        """`write_by` for content at hand."""
        return self.write_by(name, lambda stream: cast(None, stream.write(content)))

    def create(self, name: str, content: bytes) -> None:
        """Write a file that is not there yet; raises FileExistsError where it is.

        Of two that come at the same moment one fails, but for those in an object store: there the later content stays.
        """
        if not self.is_local:
            if name.rpartition("/")[2] in self.names(name.rpartition("/")[0]):
                raise FileExistsError(f"{self.path(name)} is there")
            self.write(name, content)
            return
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def write_by(self, name: str, write: Write) -> str:
        """The file that `write` writes into a stream, there as a whole or not at all; returns its sha256."""
        with self.writing(name) as stream:
            write(cast(IO[bytes], stream))
        return stream.hexdigest()

    @contextlib.contextmanager
    def writing(self, name: str) -> "Iterator[HashingStream]":
        """A stream for the file `name`, which is there once the block is left without an error.

        Raises OSError where the place is full or away, also where `torch.save` makes another error of it.
        """
        with self._opened(self.path(name)) as stream:
            try:
                yield HashingStream(stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[Any]:
        if not self.is_local:
            # An object appears when it is closed.
            with self.filesystem.open_output_stream(path) as stream:
                yield stream
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        scratch = f"{path}.{os.getpid()}.part"
        try:
            with open(scratch, "wb") as stream:  # noqa: PTH123
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(scratch, path)  # noqa: PTH105
        except BaseException:
            if os.path.exists(scratch):  # noqa: PTH110
                os.unlink(scratch)  # noqa: PTH108
            raise

    def open(self, name: str) -> Any:
        """A stream from which any part of a file can be read; to be closed. Raises as `read` does."""
        return self.filesystem.open_input_file(self.path(name))

    def sha256(self, name: str) -> str:
        """Of a file, which is read piece by piece. Raises as `read` does."""
        found = hashlib.sha256()
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            while content := stream.read(HASHED_AT_ONCE_BYTES):
                found.update(content)
        return found.hexdigest()

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is no such file, and OSError where it cannot be read."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return cast(bytes, stream.read())

    def names(self, inside: str = "") -> list[str]:
        """The sorted names of what lies in the folder, or in the folder `inside` it; none where it is absent."""
        from pyarrow.fs import FileSelector

        found = self.filesystem.get_file_info(FileSelector(self.path(inside), allow_not_found=True))
        return sorted(info.base_name for info in found)

    def remove(self, name: str = "") -> None:
        """Remove a file, or a folder with all in it; what is not there needs no removing."""
        from pyarrow.fs import FileType

        path = self.path(name)
        with contextlib.suppress(FileNotFoundError):
            kind = self.filesystem.get_file_info(path).type
            if kind == FileType.Directory:
                self.filesystem.delete_dir(path)
            elif kind != FileType.NotFound:
                self.filesystem.delete_file(path)


class HashingStream(io.RawIOBase):
    """Hands on what is written and hashes it on the way."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._hash, self._size_bytes = stream, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._hash.update(content)
        self._stream.write(content)
        written = memoryview(content).nbytes
        self._size_bytes += written
        return written

    def tell(self) -> int:
        return self._size_bytes

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
