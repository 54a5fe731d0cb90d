"""Stages: what passes make, kept under a name that says all that it came of, so that it is made once.

Several processes of one machine, or of several that share the folder, may ask for the same stage: one makes it, and the
others wait for it. What a kill leaves half made has another name, and is made anew.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.artifact import Artifact, ArtifactError, load_artifact


@dataclass(frozen=True)
class Stage:
    """One pass of a pipeline as it was carried out; `seconds` are of the making, whoever did it."""

    name: str
    artifact: Artifact
    seconds: float
    reused: bool


class Stages:
    """In `folder`, a stage KEY is the Artifact KEY/made, beside what was kept of its making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, made_of: Mapping[str, Any], make: Callable[[Path], Artifact]) -> Stage:
        """What `make` makes in a folder that it is given; `made_of` is everything that it depends on, as JSON.

        Raises what `make` raises, and keeps nothing then.
        """
        key = hashlib.sha256(json.dumps([name, made_of], sort_keys=True, default=str).encode()).hexdigest()[:32]
        place = self.folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _read(name, place)
            if found is not None:
                return found
            scratch = self.folder / f"{key}.part"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            began = time.perf_counter()
            artifact = make(scratch / "work")
            seconds = time.perf_counter() - began
            artifact.folder.rename(scratch / "made")
            shutil.rmtree(scratch / "work", ignore_errors=True)
            note = {"stage": name, "seconds": seconds, "made_of": made_of}
            (scratch / "stage.json").write_text(json.dumps(note, indent=1, default=str))
            scratch.rename(place)
        return Stage(name, load_artifact(place / "made"), seconds, reused=False)


def _read(name: str, place: Path) -> Stage | None:
    if not place.is_dir():
        return None
    try:
        note = json.loads((place / "stage.json").read_text())
        return Stage(name, load_artifact(place / "made"), float(note["seconds"]), reused=True)
    except (ArtifactError, OSError, ValueError, KeyError):
        shutil.rmtree(place, ignore_errors=True)  # torn or altered: it is made again
        return None
