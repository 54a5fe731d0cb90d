"""Releases resolved against a registry that is a dict and a folder."""

import pytest

from apps.args import AppArgs
from apps.plan import PlanError, resolve_plans


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
