import dataclasses
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimization.runners.contract import RunnerError
from optimization.runners.device import Device
from optimization.runners.native_cache import HASHES_FILE, BuildInputs, NativeCache, cache_key
from optimization.runners.profile import ShapeProfile

ROOT = Path(__file__).resolve().parents[3]
CPU = Device("cpu", "AMD EPYC", ("avx2", "avx512_vnni"))
INPUTS = BuildInputs("d1g35t", "tensorrt", "10.14.1", CPU, ShapeProfile((1, 4), (2, 4), (4, 4)), "fp32", (("a", "1"),))
CHANGES: dict[str, Any] = {
    "model_digest": "other",
    "library": "aot-inductor",
    "library_version": "10.14.2",
    "precision": "int8",
    "options": (("a", "2"),),
}
DEVICES = {"kind": "cuda", "name": "Intel Xeon", "features": ("avx2",)}
SHAPES = {"min_shape": (2, 4), "opt_shape": (3, 4), "max_shape": (8, 4)}


def _varied() -> list[BuildInputs]:
    replace: Callable[..., Any] = dataclasses.replace
    return [
        *(replace(INPUTS, **{name: value}) for name, value in CHANGES.items()),
        *(replace(INPUTS, device=replace(CPU, **{name: value})) for name, value in DEVICES.items()),
        *(replace(INPUTS, profile=replace(INPUTS.profile, **{name: value})) for name, value in SHAPES.items()),
        replace(INPUTS, profile=None),
        replace(INPUTS, options=()),
    ]


def test_every_ingredient_changes_the_key() -> None:
    names = {field.name for field in dataclasses.fields(BuildInputs)}
    assert names == {*CHANGES, "device", "profile"}
    keys = {cache_key(inputs) for inputs in (INPUTS, *_varied())}
    assert len(keys) == 1 + len(_varied())


def test_a_key_is_the_same_in_every_process() -> None:
    program = (
        "from tests.optimization.runners.test_native_cache import INPUTS, cache_key; print(cache_key(INPUTS), end='')"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert told == cache_key(INPUTS)
    assert len(told) == 64


def test_what_stands_in_one_field_cannot_pass_for_another() -> None:
    split = dataclasses.replace(INPUTS, library="ab", library_version="c")
    assert cache_key(split) != cache_key(dataclasses.replace(INPUTS, library="a", library_version="bc"))


class Builder:
    """Writes one file, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "code.bin").write_bytes(b"machine code")


@pytest.fixture
def cache(tmp_path: Path) -> NativeCache:
    return NativeCache(tmp_path / "native")


def test_what_was_built_is_built_once(cache: NativeCache) -> None:
    build = Builder()
    first = cache.get_or_build("key", build)
    assert (first / "code.bin").read_bytes() == b"machine code"
    assert cache.get_or_build("key", build) == first
    assert build.calls == 1
    assert cache.get_or_build("other", build) != first
    assert build.calls == 2


def _flip(entry: Path) -> None:
    (entry / "code.bin").write_bytes(b"machine c0de")


def _truncate(entry: Path) -> None:
    (entry / "code.bin").write_bytes(b"")


def _remove(entry: Path) -> None:
    (entry / "code.bin").unlink()


def _add(entry: Path) -> None:
    (entry / "more.bin").write_bytes(b"")


def _forget(entry: Path) -> None:
    (entry / HASHES_FILE).unlink()


def _scribble(entry: Path) -> None:
    (entry / HASHES_FILE).write_text('["code.bin"]')


@pytest.mark.parametrize("damage", [_flip, _truncate, _remove, _add, _forget, _scribble])
def test_what_is_corrupt_is_built_anew_and_said(
    cache: NativeCache, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    entry = cache.get_or_build("key", build)
    damage(entry)
    with caplog.at_level(logging.WARNING):
        assert cache.get_or_build("key", build) == entry
    assert build.calls == 2
    assert "it is built anew" in caplog.text
    assert sorted(path.name for path in entry.iterdir()) == ["code.bin", HASHES_FILE]
    cache.get_or_build("key", build)
    assert build.calls == 2


def test_a_build_that_fails_leaves_nothing(cache: NativeCache, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        cache.get_or_build("key", fail)
    assert [path.name for path in (tmp_path / "native").iterdir()] == [".key.lock"]
    build = Builder()
    cache.get_or_build("key", build)
    assert build.calls == 1


def test_a_build_that_was_killed_is_cleared_away(cache: NativeCache, tmp_path: Path) -> None:
    left = tmp_path / "native" / ".key-killed"
    left.mkdir(parents=True, mode=0o700)
    left.parent.chmod(0o700)
    (left / "half.bin").write_bytes(b"half")
    cache.get_or_build("key", Builder())
    assert not left.exists()


def test_of_many_that_ask_at_once_one_builds(cache: NativeCache) -> None:
    started = threading.Barrier(6)
    build = Builder()

    def slow(folder: Path) -> None:
        threading.Event().wait(0.1)
        build(folder)

    found: list[Path] = []

    def ask() -> None:
        started.wait()
        found.append(cache.get_or_build("key", slow))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (build.calls, len(set(found)), len(found)) == (1, 1, 6)


def test_the_cache_is_of_its_user_alone(cache: NativeCache, tmp_path: Path) -> None:
    cache.get_or_build("key", Builder())
    assert (tmp_path / "native").stat().st_mode & 0o077 == 0
    (tmp_path / "native").chmod(0o777)
    with pytest.raises(RunnerError, match=r"others may write into it \(mode drwxrwxrwx.*chmod 700"):
        cache.get_or_build("key", Builder())


def test_the_hashes_are_those_of_the_files(cache: NativeCache) -> None:
    import hashlib

    entry = cache.get_or_build("key", Builder())
    assert json.loads((entry / HASHES_FILE).read_text()) == {"code.bin": hashlib.sha256(b"machine code").hexdigest()}
