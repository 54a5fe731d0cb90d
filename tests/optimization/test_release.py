import dataclasses
import json
import math
from pathlib import Path

import pytest

from optimization.release import (
    RELEASE_FILE,
    Guarantee,
    Release,
    ReleaseError,
    VersionRef,
    endpoint_name,
    load_release,
    publish_release,
    write_release,
)
from training.artifact import sha256_of
from training.registry import Registry

RELEASE = Release(
    model="digits",
    teacher=VersionRef("digits", 3, "a" * 64),
    student=VersionRef("digits", 5, "b" * 64),
    temperature=1.25,
    threshold=0.875,
    guarantee=Guarantee("high_probability", 0.01, 0.95, 300, "With 95% confidence ..."),
)
UNSURE = dataclasses.replace(RELEASE, threshold=None, guarantee=Guarantee("none", 0.01, None, 20, "No threshold ..."))


@pytest.mark.parametrize("release", [RELEASE, UNSURE])
def test_a_release_comes_back_as_it_was_written(tmp_path: Path, release: Release) -> None:
    path = write_release(tmp_path / "new" / "folder", release)
    assert load_release(tmp_path / "new" / "folder") == release
    assert release.digest == sha256_of(path)


def test_the_digest_tells_every_field() -> None:
    others = (
        {"model": "other"},
        {"teacher": VersionRef("digits", 3, "c" * 64)},
        {"student": VersionRef("digits", 6, "b" * 64)},
        {"temperature": 1.0},
        {"threshold": None},
        {"guarantee": UNSURE.guarantee},
    )
    digests = {dataclasses.replace(RELEASE, **change).digest for change in others} | {RELEASE.digest}
    assert len(digests) == len(others) + 1


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_above_zero_and_finite(temperature: float) -> None:
    with pytest.raises(ReleaseError, match=f"temperature is {temperature}"):
        dataclasses.replace(RELEASE, temperature=temperature)


@pytest.mark.parametrize("threshold", [-0.1, 1.01, math.nan])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ReleaseError, match=f"threshold is {threshold}"):
        dataclasses.replace(RELEASE, threshold=threshold)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_may_lie_on_either_end(threshold: float) -> None:
    assert dataclasses.replace(RELEASE, threshold=threshold).threshold == threshold


def test_a_folder_without_release_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=f"{tmp_path} holds no Release"):
        load_release(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        json.dumps({"model": "digits"}).encode(),
        RELEASE.to_json().replace(b'"number"', b'"numero"'),
        RELEASE.to_json().replace(b'"model"', b'"surplus": 1, "model"'),
        RELEASE.to_json().replace(b"1.25", b'"warm"'),
    ],
)
def test_what_is_no_release_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RELEASE_FILE).write_bytes(content)
    with pytest.raises(ReleaseError, match="holds no Release"):
        load_release(tmp_path)


def test_a_release_that_could_not_have_been_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / RELEASE_FILE).write_bytes(RELEASE.to_json().replace(b"0.875", b"8.75"))
    with pytest.raises(ReleaseError, match=r"threshold is 8\.75"):
        load_release(tmp_path)


def test_releases_have_a_registered_model_of_their_own() -> None:
    assert endpoint_name("digits") == "digits.endpoint"


@pytest.mark.slow
def test_a_published_release_is_found_by_its_alias_and_known_by_its_digest(mlflow_uri: str, tmp_path: Path) -> None:
    registry = Registry(mlflow_uri)
    with registry.start_run("digits", "test", {}) as run:
        made = publish_release(registry, RELEASE, run, "sure", {"kind": "a"})
        publish_release(registry, UNSURE, run, "unsure")
    found = registry.resolve("digits.endpoint@sure")
    assert (found.number, found.digest, found.tags["kind"]) == (made.number, RELEASE.digest, "a")
    assert load_release(registry.fetch(found, tmp_path)) == RELEASE
    assert registry.resolve("digits.endpoint@unsure").digest == UNSURE.digest
