"""Undertaking: the folder of something long that the same command goes on with after a kill.

What it holds are small files, each replaced at once and never edited.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "sweep.json"


@dataclass(frozen=True)
class Undertaking:
    """`sweep.json` says what it is, and in which MLflow run it is logged."""

    folder: Path

    def require_same(self, identity: Mapping[str, Any]) -> None:
        """Raises ValueError where the folder holds a sweep that is not this one, and says what differs."""
        held = self._read()
        if held is None:
            return
        found, wanted = _flat(held["identity"]), _flat(json.loads(json.dumps(identity)))
        changed = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        if changed:
            was = "; ".join(f"{key} was {found.get(key)} and is {wanted.get(key)}" for key in changed)
            raise ValueError(f"{self.folder} holds another sweep: {was}. Give this one a --name, or begin --fresh")

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Note what this sweep is, once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._read() is None:
            write_json(self.folder / FILE, {"identity": dict(identity), "run_id": ""})

    @property
    def run_id(self) -> str:
        """The MLflow run of the whole; empty before it was made."""
        return str((self._read() or {}).get("run_id", ""))

    def set_run_id(self, run_id: str) -> None:
        write_json(self.folder / FILE, {**(self._read() or {}), "run_id": run_id})

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds it for this process; raises ValueError where another has it. A kill lets go of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"{self.folder} is being searched by another process: wait, or use --name") from error
            yield

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / FILE
        return json.loads(path.read_text()) if path.exists() else None


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A field of the recipe or the method for each entry, so that a difference can be named."""
    parts = {key: value if isinstance(value, dict) else {"": value} for key, value in identity.items()}
    return {f"{key} {inner}".strip(): value for key, part in parts.items() for inner, value in part.items()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    scratch = path.with_suffix(".part")
    with scratch.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)
