"""The champion as the launcher sees it: found, absent, or a registry in trouble."""

import json
from dataclasses import asdict

import pytest

from apps.launcher.champion import Champion, find_champion
from training.registry import RegistryError, Version

COMPARISON = {"rows": [{"variant": "student-int8", "accuracy": 0.97}], "report_rows": 360}


class MlflowError(Exception):
    def __init__(self, error_code):
        super().__init__(error_code)
        self.error_code = error_code


class FakeRegistry:
    def __init__(self, error_code=None, artifact=None):
        self.error_code = error_code
        self.artifact = artifact

    def resolve(self, reference):
        if self.error_code:
            raise RegistryError(reference) from MlflowError(self.error_code)
        return Version("digits.endpoint", 3, "d" * 64, "run", {})

    def read_artifact(self, run_id, path):
        if self.artifact is None:
            raise RegistryError(path)
        return self.artifact


def test_the_champion_comes_with_the_table_of_its_build():
    found = find_champion(FakeRegistry(artifact=json.dumps(COMPARISON).encode()), "digits")
    assert found == Champion("digits.endpoint@3", COMPARISON)


def test_a_release_without_a_table_serves_as_well():
    assert find_champion(FakeRegistry(), "digits") == Champion("digits.endpoint@3")


@pytest.mark.parametrize("code", ["RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"])
def test_an_unknown_name_or_alias_is_no_champion(code):
    assert find_champion(FakeRegistry(code), "digits") is None


def test_a_registry_in_trouble_is_not_taken_for_an_empty_one():
    with pytest.raises(RegistryError):
        find_champion(FakeRegistry("TEMPORARILY_UNAVAILABLE"), "digits")


def test_the_line_that_is_printed_reads_back():
    champion = Champion("digits.endpoint@3", COMPARISON)
    assert Champion.parse(json.dumps(asdict(champion))) == champion
    assert Champion.parse("null") is None
