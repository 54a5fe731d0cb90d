import hashlib
import os
import uuid
from pathlib import Path
from typing import IO

import pytest

from tests.training.s3_server import make_bucket
from training.checkpoint.folder import Folder


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """One on a disk, one in fsspec's memory, which stands for its drivers, and one on S3."""
    if request.param == "disk":
        return Folder(str(tmp_path / "store"))
    if request.param == "memory":
        return Folder(f"memory://{tmp_path.name}")
    request.getfixturevalue("s3")
    bucket = uuid.uuid4().hex
    make_bucket(bucket)
    return Folder(f"s3://{bucket}/a training")


def test_a_file_comes_back_as_it_was_written(folder: Folder) -> None:
    assert folder.write("a/b.bin", b"one") == hashlib.sha256(b"one").hexdigest()
    assert folder.read("a/b.bin") == b"one"
    folder.write("a/b.bin", b"two")
    assert folder.read("a/b.bin") == b"two"
    assert folder.names("a") == ["b.bin"]


def test_what_is_written_in_pieces_is_hashed_as_a_whole(folder: Folder) -> None:
    def write(stream: IO[bytes]) -> None:
        stream.write(b"one")
        stream.write(memoryview(b"two"))

    assert folder.write_by("x", write) == hashlib.sha256(b"onetwo").hexdigest()
    assert folder.read("x") == b"onetwo"


def test_names_are_of_what_lies_there_now(folder: Folder) -> None:
    assert folder.names() == []
    for name in ("b", "a", "c/d"):
        folder.write(name, b"")
    assert folder.names() == ["a", "b", "c"]
    folder.remove("c")
    folder.remove("never there")
    assert folder.names() == ["a", "b"]
    folder.remove("")
    assert folder.names() == []


def test_a_missing_file_is_an_os_error(folder: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.read("none")


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("state", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("state", b"new")
    assert folder.read("state") == b"old"
    assert folder.names() == ["state"]
