"""Published data sets: which files they are, whether they are the authors' own, and where they come from.

A file is trusted only by the sha256 of its content; nothing is parsed before that was checked.
"""

import gzip
import hashlib
import lzma
import os
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from training.data.progress import progress
from training.task import Source

# More than twice the largest file of any set read here, so that a compression bomb ends early.
MAX_FILE_BYTES = 400 * 2**20
CHUNK_BYTES = 2**20
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError)


class DataError(ValueError):
    """A published set that cannot be used as it lies there."""


class DataMissingError(DataError):
    """Files are not there; the message names them, the folder, their source and the way to fetch them."""


class DataCorruptError(DataError):
    """A file is not the published one, or does not hold what its format says."""


class DownloadError(DataError):
    """The network did not give a file; nothing of that file is left on disk."""


@dataclass(frozen=True)
class PublishedFile:
    """`sha256` is that of the content as published, with any further `.gz` or `.xz` around it taken off."""

    name: str
    sha256: str


@dataclass(frozen=True)
class PublishedSet:
    """A set of files, read from the source's folder or from its sub-folder `folder`, downloaded from `base_url`.

    Where the authors publish one tar of them, `archive` is that tar and `archive_folder` the folder inside
    it; the tar, or the unpacked folder, may then lie in the place of the files.
    """

    title: str
    folder: str
    base_url: str
    files: tuple[PublishedFile, ...]
    archive: PublishedFile | None = None
    archive_folder: str = ""

    def home(self, source: Source) -> Path:
        """The folder where the set lies or is to be put; raises DataMissingError when no folder was named."""
        folder = source.folder
        if folder is None:
            names = ", ".join(file.name for file in self.files)
            raise DataMissingError(
                f"{self.title} is read from files: pass --data-dir DIR, a folder that holds {names}, "
                f"and --download to fetch them into it from {self.base_url}"
            )
        if folder.exists() and not folder.is_dir():
            raise DataMissingError(f"--data-dir {folder} is not a folder: pass the folder that holds {self.title}")
        inner = folder / self.folder
        return inner if inner.is_dir() else folder

    def missing(self, source: Source) -> list[str]:
        """Names of the files that are there in no form."""
        home = self.home(source)
        if self._archive_path(home):
            return []
        return [file.name for file in self.files if self._path(home, file) is None]

    def read(self, source: Source, timeout_s: float = 1800) -> dict[str, bytes]:
        """Name -> verified content of every file; downloads what is missing where `source` allows it.

        Raises DataMissingError, DataCorruptError or DownloadError.
        """
        missing = self.missing(source)
        home = self.home(source)
        if missing and not source.download:
            raise DataMissingError(
                f"{self.title}: {', '.join(missing)} not found in {home}. Put the published files there "
                f"(from {self.base_url}) or pass --download to fetch them"
            )
        if missing:
            wanted = [self.archive] if self.archive else [file for file in self.files if file.name in missing]
            for file in wanted:
                download(self.base_url + file.name, home / file.name, file.sha256, timeout_s)
        paths = {file: self._path(home, file) for file in self.files}
        if None in paths.values():
            return self._read_archive(home)
        # lzma, zlib and hashlib let go of the interpreter lock, so threads do shorten this.
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            contents = pool.map(lambda item: _read_verified(item[1], item[0]), paths.items())
            return {file.name: content for file, content in zip(self.files, contents, strict=True)}

    def _path(self, home: Path, file: PublishedFile) -> Path | None:
        folders = [home, home / self.archive_folder] if self.archive_folder else [home]
        paths = (folder / f"{file.name}{suffix}" for folder in folders for suffix in ("", ".gz", ".xz"))
        return next((path for path in paths if path.is_file()), None)

    def _archive_path(self, home: Path) -> Path | None:
        path = home / self.archive.name if self.archive else None
        return path if path and path.is_file() else None

    def _read_archive(self, home: Path) -> dict[str, bytes]:
        path = self._archive_path(home)
        assert self.archive and path
        wanted = {f"{self.archive_folder}/{file.name}": file for file in self.files}
        contents: dict[str, bytes] = {}
        _verify(_sha256_of(path), self.archive.sha256, path)
        with _named_when_unreadable(path), tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() and member.name in wanted else None
                if content is not None:
                    contents[wanted[member.name].name] = _read_bounded(content.read, path)
        lost = [file.name for file in self.files if file.name not in contents]
        if lost:
            raise DataCorruptError(
                f"{path} does not hold {', '.join(lost)}: delete it and fetch it anew with --download"
            )
        for file in self.files:
            _verify(hashlib.sha256(contents[file.name]).hexdigest(), file.sha256, path / file.name)
        return contents


def _read_verified(path: Path | None, file: PublishedFile) -> bytes:
    assert path is not None
    with _named_when_unreadable(path), _opened(path, path.name.removeprefix(file.name)) as stream:
        content = _read_bounded(stream.read, path)
    _verify(hashlib.sha256(content).hexdigest(), file.sha256, path)
    return content


def _opened(path: Path, suffix: str) -> gzip.GzipFile | lzma.LZMAFile | BinaryIO:
    if suffix == ".gz":
        return gzip.open(path)
    return lzma.open(path) if suffix == ".xz" else path.open("rb")


def _read_bounded(read: Callable[[int], bytes], path: Path) -> bytes:
    content = read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise DataCorruptError(f"{path} holds more than {MAX_FILE_BYTES} bytes: it is not the published file")
    return content


@contextmanager
def _named_when_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise DataCorruptError(
            f"{path} cannot be read ({error}): delete it and fetch it anew with --download"
        ) from error


def _sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(found: str, expected: str, path: Path) -> None:
    if found != expected:
        raise DataCorruptError(
            f"{path} is not the published file: sha256 {found}, expected {expected}. "
            "Delete it and fetch it anew with --download"
        )


def download(url: str, target: Path, sha256: str, timeout_s: float = 1800, stall_s: float = 30) -> None:
    """Fetches `url` to `target`, which appears whole and verified or not at all.

    Raises DownloadError when the network fails, stalls for `stall_s`, takes more than `timeout_s` in all
    or gives something else than the content with that sha256.
    """
    created = not target.parent.exists()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = _fetch(url, part, timeout_s, stall_s)
            if found != sha256:
                raise DownloadError(f"{url} gave a file with sha256 {found}, expected {sha256}: it was not kept")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, HTTPException) as error:
        raise DownloadError(
            f"{url} could not be fetched to {target.parent}: {error}. Check network and folder and run again, "
            f"or put {target.name} there yourself"
        ) from error
    finally:
        if created and target.parent.is_dir() and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _fetch(url: str, part: Path, timeout_s: float, stall_s: float) -> str:
    """Streams `url` into `part` -> the sha256 of what came."""
    deadline = time.monotonic() + timeout_s
    digest = hashlib.sha256()
    done_bytes = 0
    with urllib.request.urlopen(url, timeout=stall_s) as response, part.open("wb") as stream:
        total_bytes = int(response.headers.get("Content-Length") or 0)
        with progress(url.rpartition("/")[2], total_bytes, "MB", 1e6) as show:
            # read1 returns what has come, so a trickle cannot hold this loop past the deadline.
            while chunk := response.read1(CHUNK_BYTES):
                done_bytes += len(chunk)
                if done_bytes > MAX_FILE_BYTES:
                    raise DownloadError(f"{url} gives more than {MAX_FILE_BYTES} bytes: it is not the published file")
                if time.monotonic() > deadline:
                    raise DownloadError(f"{url}: only {done_bytes} of {total_bytes} bytes came in {timeout_s} s")
                stream.write(chunk)
                digest.update(chunk)
                show(done_bytes)
    if done_bytes < total_bytes:
        raise DownloadError(f"{url}: the connection closed after {done_bytes} of {total_bytes} bytes; run again")
    return digest.hexdigest()
