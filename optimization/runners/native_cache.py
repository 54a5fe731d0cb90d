"""NativeCache: what was compiled on this host for this host, kept between processes.

Native code is built where it runs and never comes from a registry. A process that may write into the cache can make
every Runner of its user run what it likes, so the folder belongs to that user alone.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from optimization.runners.contract import RunnerError
from optimization.runners.device import Device
from optimization.runners.profile import ShapeProfile
from training.artifact import sha256_of

HASHES_FILE = "sha256.json"
DEFAULT_FOLDER = Path("~/.cache/tandem/native")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildInputs:
    """All that decides what a build makes; two that differ in anything never share what was built.

    `options` are the builder's settings that change its code, such as the number of threads it is fixed to.
    """

    model_digest: str
    library: str
    library_version: str
    device: Device
    profile: ShapeProfile | None
    precision: str
    options: tuple[tuple[str, str], ...] = ()


def cache_key(inputs: BuildInputs) -> str:
    """The sha256, as 64 hexadecimal digits, of `inputs` written as JSON, so that no two fields can run together."""
    return hashlib.sha256(json.dumps(asdict(inputs), sort_keys=True).encode()).hexdigest()


class NativeCache:
    """Folders of built files under `folder`, one a key, each with the sha256 of its files."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = (folder or DEFAULT_FOLDER).expanduser()

    def get_or_build(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder that `build` filled for `key`, now or before; what was altered or is torn is built again.

        `build` gets an empty folder. Of several processes that ask at once one builds, and the others wait. Raises
        RunnerError where the cache is open to other users, and whatever `build` raises, leaving nothing behind.
        """
        self._prepare()
        entry = self._folder / key
        with self._locked(key):
            if entry.exists():
                fault = _fault(entry)
                if fault is None:
                    return entry
                logger.warning("%s: %s; it is built anew", entry, fault)
                self._discard(entry)
            for leftover in self._folder.glob(f".{key}-*"):  # of a build that was killed: the lock is ours
                shutil.rmtree(leftover, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self._folder))
            try:
                build(scratch)
                hashes = {name: sha256_of(scratch / name) for name in _files(scratch)}
                (scratch / HASHES_FILE).write_text(json.dumps(hashes, indent=2, sort_keys=True))
                scratch.rename(entry)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
        return entry

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = self._folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise RunnerError(
                f"{self._folder} holds native code and others may write into it (mode {stat.filemode(found.st_mode)}, "
                f"owner {found.st_uid}): give it to this user alone (chmod 700), or name another cache folder"
            )

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with (self._folder / f".{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing the file lets go of the lock

    def _discard(self, entry: Path) -> None:
        # Renamed first: a process that still reads the old files keeps them, and none finds half of them.
        doomed = Path(tempfile.mkdtemp(prefix=".discarded-", dir=self._folder))
        entry.rename(doomed / entry.name)
        shutil.rmtree(doomed, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != HASHES_FILE
    )


def _fault(entry: Path) -> str | None:
    """What is wrong with an entry, or None."""
    try:
        hashes = json.loads((entry / HASHES_FILE).read_text())
        found = _files(entry)
        if not isinstance(hashes, dict) or sorted(hashes) != found:
            return f"it holds {found}, {HASHES_FILE} names {sorted(hashes)}"
        altered = [name for name in found if sha256_of(entry / name) != hashes[name]]
    except (OSError, ValueError, TypeError) as error:
        return f"{HASHES_FILE} cannot be read ({error})"
    return f"{', '.join(altered)} is not as it was built" if altered else None
