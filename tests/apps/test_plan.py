"""Releases resolved against a registry that is a dict and a folder."""

import shutil
from pathlib import Path

import pytest

from apps.args import AppArgs
from apps.plan import PlanError, resolve_plans
from optimization.release import Guarantee, Release, VersionRef, write_release
from training.registry import RegistryError, Version

GUARANTEE = Guarantee("none", 0.0, None, 0, "none")


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


def test_an_alias_becomes_exact_versions(shelf):
    (plan,) = resolve_plans(AppArgs(), shelf)
    assert plan.number == 7
    assert (plan.teacher.reference, plan.student.reference) == ("digits@1", "digits@2")
    assert (plan.release.temperature, plan.release.threshold) == (1.5, 0.8)
    assert not shelf.fetched_to[0].exists()


@pytest.mark.parametrize("ref", ["7", "digits.endpoint@7", "digits.endpoint@champion"])
def test_numbers_and_whole_references_name_the_same(shelf, ref):
    assert resolve_plans(AppArgs(releases=[{"ref": ref}]), shelf)[0].number == 7


def test_a_split_keeps_its_weights(shelf):
    args = AppArgs(releases=[{"ref": "champion", "weight": 9}, {"ref": "candidate", "weight": 1}])
    assert [(plan.number, plan.weight) for plan in resolve_plans(args, shelf)] == [(7, 9.0), (8, 1.0)]


def test_an_absent_alias_says_what_to_run(shelf):
    with pytest.raises(PlanError, match=r"python -m optimization.build digits@candidate"):
        resolve_plans(AppArgs(releases=[{"ref": "previous"}]), shelf)


def test_a_version_other_than_the_releases_is_refused(shelf):
    shelf.add("digits@1", "digits", 1, "swapped")
    with pytest.raises(PlanError, match="digest swapped"):
        resolve_plans(AppArgs(), shelf)


def test_one_release_twice_is_no_split(shelf):
    with pytest.raises(PlanError, match="name different ones"):
        resolve_plans(AppArgs(releases=[{"ref": "champion"}, {"ref": "7"}]), shelf)


def test_a_release_of_another_model_is_refused(shelf):
    shelf.add_release("champion", 9, model="letters")
    with pytest.raises(PlanError, match="'letters'"):
        resolve_plans(AppArgs(), shelf)
