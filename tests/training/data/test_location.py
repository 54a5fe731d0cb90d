import dataclasses
import os
import pickle
from pathlib import Path

import fsspec
import pytest

from training.data.location import digest_of, open_location
from training.data.published import DataError, DataMissingError
from training.task import Source


def _write(folder: Path) -> None:
    for name in ("b/2.txt", "a.txt", ".hidden", ".git/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_folder_lists_its_files_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    _write(tmp_path)
    place, files = open_location(tmp_path)
    assert [file.path for file in files] == ["a.txt", "b/2.txt"]
    assert place.read("b/2.txt", 100) == b"b/2.txt"
    assert place.read("b/2.txt", 3) == b"b/2"
    assert not place.remote


def test_a_single_file_is_a_place_with_one_file(tmp_path: Path) -> None:
    _write(tmp_path)
    place, files = open_location(str(tmp_path / "a.txt"))
    assert [file.path for file in files] == ["a.txt"]
    with place.stream("a.txt") as stream:
        assert stream.read() == b"a.txt"


def test_a_place_travels_to_another_process(tmp_path: Path) -> None:
    _write(tmp_path)
    place, _ = open_location(tmp_path)
    assert pickle.loads(pickle.dumps(place)).read("a.txt", 9) == b"a.txt"


def test_any_change_of_a_file_changes_the_digest(tmp_path: Path) -> None:
    _write(tmp_path)
    _, files = open_location(tmp_path)
    assert digest_of(open_location(tmp_path)[1]) == digest_of(files)
    first = files[0]
    others = [
        dataclasses.replace(first, path="c.txt"),
        dataclasses.replace(first, size_bytes=first.size_bytes + 1),
        dataclasses.replace(first, modified_ns=first.modified_ns + 1),
    ]
    assert len({digest_of([other, *files[1:]]) for other in others} | {digest_of(files)}) == 4
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    assert digest_of(open_location(tmp_path)[1]) != digest_of(files)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"there is nothing at .*/nowhere: pass the folder"):
        open_location(tmp_path / "nowhere")
    with pytest.raises(DataMissingError, match="pass --data-dir PLACE"):
        open_location(None)


def test_another_scheme_is_read_through_fsspec() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/location-test/x/1.txt", b"one")
    try:
        place, files = open_location("memory://location-test")
        assert [file.path for file in files] == ["x/1.txt"]
        assert place.read("x/1.txt", 10) == b"one"
        assert place.remote
    finally:
        memory.rm("/location-test", recursive=True)


def test_a_scheme_that_nothing_reads_is_refused() -> None:
    with pytest.raises(DataError, match=r"nosuch://bucket/x cannot be opened: .*Check the address"):
        open_location("nosuch://bucket/x")


@pytest.mark.parametrize("location", ["s3://key:secret@bucket/x", "gs://token@bucket"])
def test_credentials_in_an_address_are_refused(location: str) -> None:
    with pytest.raises(ValueError, match="keep credentials in the environment") as caught:
        Source(location)
    assert "secret" not in str(caught.value)


def test_an_address_is_no_folder_of_published_files() -> None:
    assert Source("here").folder == Path("here")
    assert Source().folder is None
    with pytest.raises(ValueError, match="s3://bucket/x is no local folder"):
        _ = Source("s3://bucket/x").folder
