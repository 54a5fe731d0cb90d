"""Folder: a place for files, on a disk or in an object store, in which no file is ever seen half-written."""

import hashlib
import io
import os
from collections.abc import Callable
from typing import IO, Any, cast

Write = Callable[[IO[bytes]], None]


class Folder:
    """The folder at `url`: a path, or anything that fsspec knows, such as s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.url = url
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self.is_local = isinstance(self._files, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def inner(self, name: str) -> "Folder":
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def write(self, name: str, content: bytes) -> str:
        """`write_by` for content at hand."""
        return self.write_by(name, lambda stream: cast(None, stream.write(content)))

    def write_by(self, name: str, write: Write) -> str:
        """The file that `write` writes into a stream, there as a whole or not at all; returns its sha256."""
        path = self.path(name)
        if not self.is_local:
            # An object appears when it is complete.
            with self._files.open(path, "wb") as stream:
                hashing = _Hashing(stream)
                write(cast(IO[bytes], hashing))
            return hashing.hexdigest()
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        scratch = f"{path}.{os.getpid()}.part"
        try:
            with open(scratch, "wb") as stream:  # noqa: PTH123
                hashing = _Hashing(stream)
                write(cast(IO[bytes], hashing))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(scratch, path)  # noqa: PTH105
        except BaseException:
            if os.path.exists(scratch):  # noqa: PTH110
                os.unlink(scratch)  # noqa: PTH108
            raise
        return hashing.hexdigest()

    def read(self, name: str) -> bytes:
        """Raises OSError where there is no such file."""
        return cast(bytes, self._files.cat_file(self.path(name)))

    def names(self, inside: str = "") -> list[str]:
        """The sorted names of what lies in the folder, or in the folder `inside` it; none where it is absent."""
        try:
            self._files.invalidate_cache()
            found = self._files.ls(self.path(inside) if inside else self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in found)

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all in it; what is not there needs no removing."""
        try:
            self._files.rm(self.path(name), recursive=True)
        except FileNotFoundError:
            return


class _Hashing(io.RawIOBase):
    """Hands on what is written and hashes it on the way."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._hash = stream, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._hash.update(content)
        self._stream.write(content)
        return len(content)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
