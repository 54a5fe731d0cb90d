import gzip
import hashlib
import io
import lzma
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.data import published as module
from training.data.published import (
    DataCorruptError,
    DataMissingError,
    DownloadError,
    PublishedFile,
    PublishedSet,
    download,
)
from training.task import Source

ONE, TWO = b"first file " * 50, b"second file " * 50


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_set(base_url: str = "http://127.0.0.1:9/", archive: PublishedFile | None = None) -> PublishedSet:
    files = (PublishedFile("one.bin", sha256(ONE)), PublishedFile("two.bin", sha256(TWO)))
    return PublishedSet("Numbers", "numbers", base_url, files, archive, "inside" if archive else "")


def tar_gz(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)], ids=["plain", "gz", "xz"]
)
def test_files_are_read_in_each_form(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / f"one.bin{suffix}").write_bytes(pack(ONE))
    (tmp_path / f"two.bin{suffix}").write_bytes(pack(TWO))
    assert make_set().read(Source(tmp_path)) == {"one.bin": ONE, "two.bin": TWO}


def test_files_are_found_in_the_folder_of_their_set(tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "one.bin").write_bytes(ONE)
    (tmp_path / "numbers" / "two.bin").write_bytes(TWO)
    assert make_set().read(Source(tmp_path))["two.bin"] == TWO


def test_missing_files_are_named_with_folder_source_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(ONE)
    with pytest.raises(DataMissingError) as caught:
        make_set().read(Source(tmp_path))
    message = str(caught.value)
    assert "two.bin not found in" in message and "one.bin" not in message
    assert str(tmp_path) in message and "http://127.0.0.1:9/" in message and "--download" in message


@pytest.mark.parametrize("wanted", [False, True])
def test_without_a_folder_the_option_is_named(wanted: bool) -> None:
    with pytest.raises(DataMissingError, match=r"--data-dir DIR.*one\.bin, two\.bin"):
        make_set().read(Source(None, download=wanted))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataMissingError, match="is not a folder"):
        make_set().read(Source(tmp_path / "file"))


@pytest.mark.parametrize("wanted", [False, True])
def test_a_changed_file_is_named_with_both_sums_and_kept(tmp_path: Path, wanted: bool) -> None:
    (tmp_path / "one.bin").write_bytes(ONE)
    (tmp_path / "two.bin").write_bytes(b"other")
    with pytest.raises(DataCorruptError) as caught:
        make_set().read(Source(tmp_path, download=wanted))
    message = str(caught.value)
    assert str(tmp_path / "two.bin") in message and sha256(b"other") in message and sha256(TWO) in message
    assert (tmp_path / "two.bin").read_bytes() == b"other"


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / f"one.bin{suffix}").write_bytes(pack(ONE)[:-12])
    (tmp_path / "two.bin").write_bytes(TWO)
    with pytest.raises(DataCorruptError, match=rf"one\.bin\{suffix} cannot be read"):
        make_set().read(Source(tmp_path))


def test_a_compression_bomb_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10_000)
    (tmp_path / "one.bin.gz").write_bytes(gzip.compress(bytes(1_000_000)))
    (tmp_path / "two.bin").write_bytes(TWO)
    with pytest.raises(DataCorruptError, match="more than 10000 bytes"):
        make_set().read(Source(tmp_path))


def test_an_archive_stands_for_its_files(tmp_path: Path) -> None:
    content = tar_gz({"inside/one.bin": ONE, "inside/readme": b"text", "inside/two.bin": TWO})
    (tmp_path / "all.tar.gz").write_bytes(content)
    published = make_set(archive=PublishedFile("all.tar.gz", sha256(content)))
    assert published.read(Source(tmp_path)) == {"one.bin": ONE, "two.bin": TWO}
    assert names(tmp_path) == ["all.tar.gz"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"inside/one.bin": ONE}, r"does not hold two\.bin"),
        ({"inside/one.bin": ONE, "inside/two.bin": ONE}, "is not the published file"),
        ({"inside/one.bin": ONE, "../inside/two.bin": TWO}, r"does not hold two\.bin"),
    ],
)
def test_an_archive_of_other_content_is_refused(tmp_path: Path, contents: dict[str, bytes], message: str) -> None:
    content = tar_gz(contents)
    (tmp_path / "all.tar.gz").write_bytes(content)
    with pytest.raises(DataCorruptError, match=message):
        make_set(archive=PublishedFile("all.tar.gz", sha256(content))).read(Source(tmp_path))


def test_a_truncated_archive_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    content = tar_gz({"inside/one.bin": ONE, "inside/two.bin": TWO})
    (tmp_path / "all.tar.gz").write_bytes(content[:-30])
    with pytest.raises(DataCorruptError, match=rf"expected {sha256(content)}"):
        make_set(archive=PublishedFile("all.tar.gz", sha256(content))).read(Source(tmp_path))


class Site:
    """A web site on loopback; `answers` maps a path to what is sent, `lie_bytes` is added to the length announced."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.lie_bytes = 0
        self.pause_s = 0.0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                content = site.answers.get(self.path)
                self.send_response(404 if content is None else 200)
                content = content or b"no such file"
                self.send_header("Content-Length", str(len(content) + site.lie_bytes))
                self.end_headers()
                for start in range(0, len(content), 100):
                    time.sleep(site.pause_s)
                    try:
                        self.wfile.write(content[start : start + 100])
                    except OSError:
                        return

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


def test_download_fetches_what_is_missing_and_nothing_else(tmp_path: Path, site: Site) -> None:
    site.answers = {"/one.bin": b"changed meanwhile", "/two.bin": TWO}
    (tmp_path / "one.bin").write_bytes(ONE)
    contents = make_set(site.url).read(Source(tmp_path, download=True))
    assert contents == {"one.bin": ONE, "two.bin": TWO}
    assert site.asked == ["/two.bin"]
    assert names(tmp_path) == ["one.bin", "two.bin"]
    assert make_set("http://127.0.0.1:9/").read(Source(tmp_path)) == contents


def test_download_makes_the_folder_and_shows_progress(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.answers = {"/one.bin": ONE, "/two.bin": TWO}
    make_set(site.url).read(Source(tmp_path / "new" / "folder", download=True))
    assert names(tmp_path / "new" / "folder") == ["one.bin", "two.bin"]
    assert "two.bin: 0.0 of 0.0 MB" in capsys.readouterr().err


def test_download_of_an_archive_is_read_in_place(tmp_path: Path, site: Site) -> None:
    content = tar_gz({"inside/one.bin": ONE, "inside/two.bin": TWO})
    site.answers = {"/all.tar.gz": content}
    published = make_set(site.url, PublishedFile("all.tar.gz", sha256(content)))
    assert published.read(Source(tmp_path, download=True)) == {"one.bin": ONE, "two.bin": TWO}
    assert names(tmp_path) == ["all.tar.gz"]


def test_download_of_other_content_is_not_kept(tmp_path: Path, site: Site) -> None:
    site.answers = {"/one.bin": ONE, "/two.bin": b"changed"}
    with pytest.raises(DownloadError, match=f"sha256 {sha256(b'changed')}, expected {sha256(TWO)}"):
        make_set(site.url).read(Source(tmp_path, download=True))
    assert names(tmp_path) == ["one.bin"]


def test_a_page_that_is_not_there_leaves_nothing(tmp_path: Path, site: Site) -> None:
    with pytest.raises(DownloadError, match="404"):
        download(site.url + "one.bin", tmp_path / "new" / "one.bin", sha256(ONE))
    assert names(tmp_path) == []


def test_a_connection_that_ends_early_leaves_nothing(tmp_path: Path, site: Site) -> None:
    site.answers, site.lie_bytes = {"/one.bin": ONE}, 7
    with pytest.raises(DownloadError, match=f"{len(ONE)} of {len(ONE) + 7} bytes|could not be fetched"):
        download(site.url + "one.bin", tmp_path / "one.bin", sha256(ONE))
    assert names(tmp_path) == []


def test_a_trickle_ends_at_the_time_limit(tmp_path: Path, site: Site) -> None:
    site.answers, site.pause_s = {"/one.bin": ONE}, 0.1
    with pytest.raises(DownloadError, match=r"bytes came in 0\.2 s"):
        download(site.url + "one.bin", tmp_path / "one.bin", sha256(ONE), timeout_s=0.2)
    assert names(tmp_path) == []


def test_a_stall_ends_at_its_limit(tmp_path: Path, site: Site) -> None:
    site.answers, site.pause_s = {"/one.bin": ONE}, 5.0
    begin = time.monotonic()
    with pytest.raises(DownloadError, match="timed out"):
        download(site.url + "one.bin", tmp_path / "one.bin", sha256(ONE), stall_s=0.2)
    assert time.monotonic() - begin < 4
    assert names(tmp_path) == []


def test_an_endless_file_ends_at_the_size_limit(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 200)
    site.answers = {"/one.bin": ONE}
    with pytest.raises(DownloadError, match="more than 200 bytes"):
        download(site.url + "one.bin", tmp_path / "one.bin", sha256(ONE))
    assert names(tmp_path) == []


def test_no_network_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9/one\.bin could not be fetched.*put one\.bin there"):
        make_set().read(Source(tmp_path / "new", download=True))
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path, site: Site) -> None:
    site.answers = {"/one.bin": ONE}
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="Check network and folder"):
        download(site.url + "one.bin", tmp_path / "file" / "one.bin", sha256(ONE))
