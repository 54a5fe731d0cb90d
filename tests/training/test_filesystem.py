from pathlib import Path

import pytest
from pyarrow.fs import GcsFileSystem, LocalFileSystem, S3FileSystem

from training.filesystem import AddressError, open_filesystem


@pytest.mark.parametrize(("address", "kind"), [("s3://bucket/a b", S3FileSystem), ("gs://bucket/a b", GcsFileSystem)])
def test_object_stores_are_read_by_arrow(address: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is made: an endpoint of one's own is not asked for its region."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    filesystem, path = open_filesystem(address)
    assert isinstance(filesystem, kind)
    assert path == "bucket/a b"


def test_a_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    filesystem, path = open_filesystem("a/b")
    assert isinstance(filesystem, LocalFileSystem)
    assert path == (tmp_path / "a/b").as_posix()


def test_what_another_writer_adds_is_seen() -> None:
    """fsspec's drivers may remember lists of files."""
    filesystem, _ = open_filesystem("memory://filesystem-test")
    assert not filesystem.handler.fs.dircache.use_listings_cache


def test_a_scheme_that_nothing_opens_is_refused() -> None:
    with pytest.raises(AddressError, match=r"nosuch://bucket/x cannot be opened: .*Check the address"):
        open_filesystem("nosuch://bucket/x")
