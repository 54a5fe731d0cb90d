import hashlib
import os
from pathlib import Path
from typing import IO

import pytest

from training.checkpoint.folder import Folder


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


def test_what_is_there_is_not_created_again(folder: Folder) -> None:
    folder.create("a/b", b"one")
    with pytest.raises(FileExistsError):
        folder.create("a/b", b"two")
    assert folder.read("a/b") == b"one"


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
