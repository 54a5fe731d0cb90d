"""Two registered graphs become a Release, against a real MLflow."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from optimization.pairing import main, pair_versions
from optimization.release import load_release
from tests import duel
from tests.toys import digits, digits_recipe, write_torch
from training.lineage import version_tags
from training.registry import Registry, Version
from training.task import Source

pytestmark = pytest.mark.slow

ENDPOINT = "duel.endpoint"


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def teacher(registry: Registry, folder: Path) -> Version:
    return duel.publish_model(registry, duel.write_model(folder / "teacher", "teacher", work=150_000))


@pytest.fixture(scope="module")
def student(registry: Registry, folder: Path) -> Version:
    return duel.publish_model(registry, duel.write_model(folder / "student", "student", flaw=1.0))


def _releases(registry: Registry) -> set[str]:
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    if not client.search_registered_models(f"name='{ENDPOINT}'"):
        return set()
    return {version.version for version in client.search_model_versions(f"name='{ENDPOINT}'")}


def test_a_pair_that_passes_is_the_candidate_with_what_to_expect(
    registry: Registry, teacher: Version, student: Version, tmp_path: Path
) -> None:
    made, verdict = pair_versions(teacher, student, Source(), registry, tmp_path, max_harm=0.01)
    assert verdict.passed, verdict.failures
    assert registry.resolve(f"{ENDPOINT}@candidate") == made
    release = load_release(registry.fetch(made, tmp_path))
    assert (release.teacher.digest, release.student.digest) == (teacher.digest, student.digest)
    assert release.guarantee.max_harm == 0.01
    assert release.threshold is not None and 0 < release.threshold < 1
    assert release.expected is not None and (release.expected.rows, release.expected.accuracy) == (600, 1.0)
    assert (made.tags["tandem.gate"], made.tags["tandem.guarantee"]) == ("passed", release.guarantee.kind)


def test_a_pair_that_fails_its_gate_is_registered_without_an_alias(
    registry: Registry, teacher: Version, student: Version, folder: Path, tmp_path: Path
) -> None:
    pair_versions(teacher, student, Source(), registry, tmp_path)
    held = registry.aliases(ENDPOINT)
    worse = duel.publish_model(registry, duel.write_model(folder / "worse", "worse", flaw=30.0))
    made, verdict = pair_versions(teacher, worse, Source(), registry, tmp_path, max_harm=0.9)
    assert not verdict.passed
    assert made.tags["tandem.gate"] == "failed"
    assert registry.aliases(ENDPOINT) == held
    kept = json.loads(registry.read_artifact(made.run_id, "pairing.json"))
    assert kept["verdict"]["passed"] is False
    assert kept["calibration"]["threshold"] is not None


def test_a_student_that_could_answer_nothing_is_no_student(
    registry: Registry, teacher: Version, folder: Path, tmp_path: Path
) -> None:
    useless = duel.publish_model(registry, duel.write_model(folder / "useless", "useless", flaw=40.0))
    before = _releases(registry)
    with pytest.raises(ValueError, match=f"{useless.reference} is no student for {teacher.reference}: .*--max-harm"):
        pair_versions(teacher, useless, Source(), registry, tmp_path, max_harm=0.0001)
    assert _releases(registry) == before


def test_the_command_names_the_candidate_and_what_it_was_judged_by(
    registry: Registry, teacher: Version, student: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = [teacher.reference, student.reference, "--max-harm", "0.012", "--cache-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["optimization.pairing", *arguments])
    main()
    said = capsys.readouterr().out
    candidate = registry.resolve(f"{ENDPOINT}@candidate")
    assert f"{candidate.reference} is the candidate. Next: python -m optimization.promote" in said
    assert "passed, harm:" in said


def test_what_cannot_be_paired_is_refused_and_registers_nothing(
    registry: Registry, teacher: Version, student: Version, tmp_path: Path
) -> None:
    before = _releases(registry)
    other = dataclasses.replace(student, tags={**student.tags, "tandem.data_hash": "0" * 64})
    with pytest.raises(ValueError, match="are not of one model and the same data"):
        pair_versions(teacher, other, Source(), registry, tmp_path)
    with pytest.raises(ValueError, match="are the same model: there is nothing to pair"):
        pair_versions(teacher, teacher, Source(), registry, tmp_path)
    recipe, task = digits_recipe(), digits(Source())
    with registry.start_run("pairless", "train", {}) as run:
        untrained = write_torch(tmp_path / "torch", task, recipe.architecture)
        tags = version_tags("tests.toys:digits_recipe", {}, Source(), task, untrained)
        torch = registry.publish("pairless", untrained.folder, run, tags)
    with pytest.raises(ValueError, match=r"pairless@1 is no graph that can be served"):
        pair_versions(torch, dataclasses.replace(torch, digest="1" * 64), Source(), registry, tmp_path)
    assert _releases(registry) == before
