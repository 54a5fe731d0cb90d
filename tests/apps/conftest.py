"""What tests of the serving parts share: a clock that they set, and a registry that is a dict and a folder."""

import shutil
from pathlib import Path

import pytest

from optimization.release import Guarantee, Release, VersionRef, write_release
from training.registry import RegistryError, Version

GUARANTEE = Guarantee("none", 0.0, None, 0, "none")


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


class Shelf:
    """What `Registry` does for a reader."""

    def __init__(self, folder):
        self.folder = folder
        self.versions = {}
        self.fetched_to = []

    def add(self, reference, name, number, digest="d"):
        self.versions[reference] = Version(name, number, digest, "run", {})

    def add_release(self, alias, number, teacher_digest="t", model="digits"):
        self.add(f"digits.endpoint@{alias}", "digits.endpoint", number)
        self.add(f"digits.endpoint@{number}", "digits.endpoint", number)
        release = Release(
            model, VersionRef("digits", 1, teacher_digest), VersionRef("digits", 2, "s"), 1.5, 0.8, GUARANTEE
        )
        write_release(self.folder / str(number), release)

    def resolve(self, reference):
        if reference not in self.versions:
            raise RegistryError(f"{reference!r} is not in the registry")
        return self.versions[reference]

    def fetch(self, version, cache_dir):
        self.fetched_to.append(cache_dir)
        return Path(shutil.copytree(self.folder / str(version.number), cache_dir / "fetched"))


@pytest.fixture
def shelf(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.add("digits@1", "digits", 1, "t")
    shelf.add("digits@2", "digits", 2, "s")
    shelf.add_release("champion", 7)
    shelf.add_release("candidate", 8)
    return shelf
