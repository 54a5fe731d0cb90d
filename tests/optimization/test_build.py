"""Whole builds on the digits against a real MLflow: distil, export, quantize, measure, gate, register."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from optimization import build as build_module
from optimization.adopt.adoption import Adoption, adopt
from optimization.adopt.graft import Scaling
from optimization.adopt.origin import FromOnnx
from optimization.build import Plan, build, main, student_reference
from optimization.challenge import Terms, challenge
from optimization.contender import fetch_contender, teacher_alone
from optimization.distill.parameters import Distill, Hint
from optimization.measure.measurement import read_measurements
from optimization.release import Release, endpoint_name, load_release
from optimization.runners.open import open_runner
from tests.optimization.adopt.graphs import MEAN, STD, model, save
from tests.toys import images
from training.artifact import load_artifact
from training.evaluation.scores import predict_in_batches
from training.launch.job import Compute
from training.recipes import load_recipe
from training.registry import Registry, RegistryError, Version
from training.task import Source, Task, load_task
from training.train import train

pytestmark = pytest.mark.slow

HERE = Compute(local=True)
TEACHER, STUDENT = "tests.toys:digits_recipe", "tests.toys:digits_recipe_student"


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("tests.toys:digits", Source())


@pytest.fixture(scope="module")
def teacher(registry: Registry) -> Version:
    return train(TEACHER, load_recipe(TEACHER), Source(), registry, HERE)


def _plan(*settings: str) -> Plan:
    return Plan(Distill(STUDENT, settings), Source(), HERE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(registry: Registry, teacher: Version, cache: Path) -> tuple[Version, bool]:
    return build(teacher, _plan(), registry, cache)


@pytest.fixture(scope="module")
def release(registry: Registry, built: tuple[Version, bool], cache: Path) -> Release:
    return load_release(registry.fetch(built[0], cache))


def _client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry.tracking_uri)


def _numbers(registry: Registry, name: str = "toy_digits") -> set[int]:
    return {int(version.version) for version in _client(registry).search_model_versions(f"name='{name}'")}


def _latest_run(registry: Registry) -> tuple[str, str]:
    client = _client(registry)
    experiment = client.get_experiment_by_name("toy_digits")
    run = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]
    return run.info.run_id, run.info.status


def _aliases(registry: Registry) -> dict[str, int]:
    """The endpoint's aliases; none where it has no Release yet."""
    found = {}
    for alias in ("candidate", "champion", "previous"):
        try:
            found[alias] = registry.resolve(f"{endpoint_name('toy_digits')}@{alias}").number
        except RegistryError:
            continue
    return found


def test_a_pair_that_passes_its_gate_becomes_the_champion(
    registry: Registry, built: tuple[Version, bool], release: Release
) -> None:
    version, passed = built
    assert passed
    assert version.name == "toy_digits.endpoint"
    assert version.tags["tandem.gate"] == "passed"
    for alias in ("champion", "candidate"):
        assert registry.resolve(f"toy_digits.endpoint@{alias}") == version
    assert release.model == "toy_digits"
    assert release.temperature > 0
    assert version.tags["tandem.guarantee"] == release.guarantee.kind


def test_the_release_says_what_to_expect_of_rows_that_chose_nothing(
    registry: Registry, built: tuple[Version, bool], release: Release, task: Task
) -> None:
    expected = release.expected
    assert expected is not None
    assert expected.rows == len(task.splits["gate"])
    assert expected.deferral_interval[0] < expected.deferral < expected.deferral_interval[1]
    assert min(expected.student_ms, expected.teacher_ms) > 0
    assert expected.cost_ms == pytest.approx(expected.student_ms + expected.deferral * expected.teacher_ms)
    assert len({one.corruption for one in expected.shifted}) == 8
    assert json.loads(registry.read_artifact(built[0].run_id, "shift.json"))["max_harm"] == 0.01


def test_the_release_pairs_two_versions_by_their_digests(
    registry: Registry, release: Release, cache: Path, task: Task
) -> None:
    accuracies = {}
    for part, variants in ((release.teacher, {"teacher-fp32"}), (release.student, {"student-int8", "student-fp32"})):
        version = registry.resolve(f"{part.name}@{part.number}")
        assert version.digest == part.digest
        artifact = load_artifact(registry.fetch(version, cache))
        assert artifact.manifest.variant in variants
        split = task.splits["report"]
        answers = predict_in_batches(open_runner(artifact), split.inputs).argmax(axis=1)
        accuracies[artifact.manifest.variant] = (answers == split.labels).mean()
        assert float(version.tags["tandem.accuracy"]) == pytest.approx(accuracies[artifact.manifest.variant], abs=1e-5)
        assert int(float(version.tags["tandem.size_bytes"])) == pytest.approx(artifact.size_bytes, rel=1e-4)
    assert min(accuracies.values()) > 0.93


def test_a_built_pair_is_held_to_what_its_parts_were_converted_from(
    registry: Registry, built: tuple[Version, bool], cache: Path, task: Task
) -> None:
    contender = fetch_contender(registry, built[0], cache)
    outcome = challenge(contender, teacher_alone(contender), task, Terms(timed_rows=20, rounds=6))
    parity = [check for check in outcome.verdict.checks if check.name == "parity"]
    assert len(parity) == 2 and all(check.passed for check in parity)
    assert "(teacher-fp32) and what it was made from (teacher)" in parity[0].sentence
    assert outcome.challenger.size_bytes > outcome.champion.size_bytes


def test_every_variant_is_registered_with_its_descent(
    registry: Registry, built: tuple[Version, bool], teacher: Version, cache: Path, task: Task
) -> None:
    made = {}
    for number in _numbers(registry):
        version = registry.resolve(f"toy_digits@{number}")
        if version.run_id == built[0].run_id:
            made[version.tags["tandem.variant"]] = version
    assert made.keys() == {"student", "teacher-fp32", "student-fp32", "student-int8"}
    parents = {name: version.tags["tandem.parent"] for name, version in made.items()}
    assert parents == {
        "student": teacher.digest,
        "teacher-fp32": teacher.digest,
        "student-fp32": made["student"].digest,
        "student-int8": made["student-fp32"].digest,
    }
    for name, version in made.items():
        assert version.tags["tandem.teacher_version"] == teacher.reference
        assert version.tags["tandem.data_hash"] == task.data_hash
        assert version.tags["tandem.recipe"] == (TEACHER if name == "teacher-fp32" else STUDENT)
        assert load_artifact(registry.fetch(version, cache)).manifest.parent == version.tags["tandem.parent"]
    for name in ("teacher-fp32", "student-fp32", "student-int8"):
        (found,) = read_measurements(registry, made[name])
        assert (found.version, found.split, found.rows) == (made[name].reference, "gate", len(task.splits["gate"]))
        assert found.paired is not None
        of = {"teacher-fp32": teacher, "student-fp32": made["student"], "student-int8": made["student-fp32"]}[name]
        assert found.paired.reference == of.reference
        assert f"{found.latency.at(1).p50_ms:.6g}" == made[name].tags["tandem.p50_ms"]
    assert made["student-int8"].tags["tandem.gate"] in ("passed", "failed")
    assert registry.resolve("toy_digits@candidate") == teacher  # what a next build starts from


def test_the_run_holds_the_comparison_and_its_page(
    registry: Registry, built: tuple[Version, bool], release: Release
) -> None:
    run_id = built[0].run_id
    comparison = json.loads(registry.read_artifact(run_id, "comparison.json"))
    rows = {row["variant"]: row for row in comparison["rows"]}
    assert rows.keys() == {"teacher-fp32", "student-fp32", "student-int8"}
    assert rows["student-int8"]["size_bytes"] * 3 < rows["teacher-fp32"]["size_bytes"]
    assert rows["teacher-fp32"]["speedup"] == 1.0
    verdicts = json.loads(registry.read_artifact(run_id, "verdicts.json"))
    assert verdicts["release"]["passed"]
    assert json.loads(registry.read_artifact(run_id, "calibration.json"))["threshold"] == release.threshold
    page = registry.read_artifact(run_id, "report.html").decode()
    assert "student-int8" in page
    assert "<svg" in page
    run = _client(registry).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["tandem.teacher"].startswith("toy_digits@")
    assert run.data.metrics["student-int8/accuracy"] == pytest.approx(rows["student-int8"]["accuracy"])


def test_the_threshold_sees_no_row_that_the_student_was_made_from(
    registry: Registry, built: tuple[Version, bool], release: Release, task: Task
) -> None:
    assert 0 < release.guarantee.samples < len(task.splits["calibration"])


def _run_main(monkeypatch: pytest.MonkeyPatch, registry: Registry, cache: Path, *arguments: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["optimization.build", *arguments, "--local", "--cache-dir", str(cache)])
    main()


def test_a_pair_that_fails_its_gate_is_a_candidate_and_no_champion(
    registry: Registry,
    built: tuple[Version, bool],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [part for value in ("epochs=1", "optimizer.lr=1e-9") for part in ("--set", value)]
    with pytest.raises(SystemExit) as caught:
        _run_main(monkeypatch, registry, cache, "toy_digits@candidate", *settings)
    assert "did not pass its gate; it is registered as candidate, the champion stays" in str(caught.value.code)
    failed = registry.resolve("toy_digits.endpoint@candidate")
    assert failed.number > built[0].number
    assert failed.tags["tandem.gate"] == "failed"
    assert registry.resolve("toy_digits.endpoint@champion") == built[0]
    assert "previous" not in _aliases(registry)
    # What was found out is kept, and shown.
    verdicts = json.loads(registry.read_artifact(failed.run_id, "verdicts.json"))
    assert not verdicts["student-int8"]["passed"]
    assert json.loads(registry.read_artifact(failed.run_id, "comparison.json"))["rows"]
    assert registry.read_artifact(failed.run_id, "report.html")
    assert "student-int8" in capsys.readouterr().out
    student = registry.resolve(f"toy_digits@{load_release(registry.fetch(failed, cache)).student.number}")
    assert student.tags["tandem.gate"] == "failed"
    assert float(student.tags["tandem.accuracy"]) < 0.5


@pytest.mark.long
def test_a_later_pass_keeps_the_champion_before_it_as_previous(
    registry: Registry, built: tuple[Version, bool], teacher: Version, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_main(monkeypatch, registry, cache, teacher.reference, "--set", "seed=1")
    aliases = _aliases(registry)
    assert aliases["champion"] == aliases["candidate"] > built[0].number
    assert aliases["previous"] == built[0].number


@pytest.mark.parametrize(
    "stage",
    [
        "optimization.variants.export_onnx",
        pytest.param("optimization.variants.quantize", marks=pytest.mark.long),
        pytest.param("optimization.build.compare", marks=pytest.mark.long),
    ],
)
def test_a_stage_that_fails_registers_nothing(
    registry: Registry,
    teacher: Version,
    built: tuple[Version, bool],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    def broken(*arguments: object) -> bytes:
        raise ValueError(f"{stage} is broken")

    before = _numbers(registry), _numbers(registry, "toy_digits.endpoint"), _aliases(registry)
    monkeypatch.setattr(stage, broken)
    with pytest.raises(ValueError, match=f"{stage} is broken"):
        build(teacher, _plan("epochs=1"), registry, cache)
    assert (_numbers(registry), _numbers(registry, "toy_digits.endpoint"), _aliases(registry)) == before
    run_id, status = _latest_run(registry)
    assert status == "FAILED"
    assert run_id != built[0].run_id


def test_a_graph_from_elsewhere_is_taught_from_and_served_as_it_came(
    registry: Registry, cache: Path, tmp_path: Path
) -> None:
    request = Adoption(FromOnnx(save(tmp_path, model()), Scaling((MEAN,), (STD,))), "tests.toys:images", Source())
    adopted, _ = adopt(request, registry)
    taught = Distill("tests.toys:image_recipe_student", ("epochs=1",), temperature=2.0)
    release, passed = build(adopted, Plan(taught, Source(), HERE), registry, cache)
    assert not passed  # the student is larger than this teacher
    made = {}
    for number in _numbers(registry, "toy_images"):
        version = registry.resolve(f"toy_images@{number}")
        made[version.tags["tandem.variant"]] = version
    assert made.keys() == {"teacher", "student", "teacher-fp32", "student-fp32", "student-int8"}
    assert json.loads(made["student"].tags["tandem.distill"])["temperature"] == 2.0
    assert made["student"].tags["tandem.parent"] == made["teacher-fp32"].tags["tandem.parent"] == adopted.digest
    assert made["student-int8"].tags["tandem.teacher_version"] == adopted.reference
    pixels = images(Source()).splits["report"].inputs[:5]
    served = load_artifact(registry.fetch(made["teacher-fp32"], cache))
    given = load_artifact(registry.fetch(adopted, cache))
    assert (open_runner(served)(pixels) == open_runner(given)(pixels)).all()
    assert load_release(registry.fetch(release, cache)).teacher.number == made["teacher-fp32"].number


def test_the_command_brings_a_model_and_builds_from_it(
    registry: Registry, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def stop(version: Version, plan: Plan, *others: object) -> None:
        asked.append((version, plan))
        raise ValueError("far enough")

    monkeypatch.setattr(build_module, "build", stop)
    arguments = ["--from-onnx", str(save(tmp_path, model())), "--task", "tests.toys:images"]
    arguments += ["--mean", str(MEAN), "--std", str(STD), "--distill", "objective=dist", "--hint", "a:b"]
    with pytest.raises(SystemExit, match="far enough"):
        _run_main(monkeypatch, registry, cache, *arguments)
    ((version, plan),) = asked
    assert version == registry.resolve("toy_images@candidate")
    assert plan.distill == Distill(objective="dist", hints=(Hint("a", "b"),))
    assert "has an accuracy of 100.00% on the gate split" in capsys.readouterr().out
    assert student_reference(version) == "tests.toys:images_student"
    for both in ([], [*arguments, "toy_images@candidate"]):
        with pytest.raises(SystemExit, match="one of the two"):
            _run_main(monkeypatch, registry, cache, *both)


def test_other_data_than_the_teachers_is_refused(
    registry: Registry, teacher: Version, cache: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = dataclasses.replace(task, splits={**task.splits, "val": task.splits["report"]})
    monkeypatch.setattr(build_module, "load_task", lambda reference, source, params: fewer)
    before = _latest_run(registry)
    with pytest.raises(ValueError, match=rf"{teacher.reference} was trained on other data than tests\.toys:digits"):
        build(teacher, _plan(), registry, cache)
    assert _latest_run(registry) == before  # refused before a run was begun


def test_a_student_of_another_task_is_refused(registry: Registry, teacher: Version, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe is for 'fashion_mnist', the teacher is of 'tests\.toys:digits'"):
        build(teacher, Plan(Distill("fashion_mnist_student"), Source(), HERE), registry, cache)


def test_a_graph_is_no_teacher_to_build_from(registry: Registry, release: Release, cache: Path) -> None:
    graph = registry.resolve(f"{release.teacher.name}@{release.teacher.number}")
    with pytest.raises(ValueError, match=rf"{graph.reference} is teacher-fp32, .* such as toy_digits@candidate"):
        build(graph, _plan(), registry, cache)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy_digits@nobody"], "optimization.build: 'toy_digits@nobody' is not in the registry"),
        (["toy_digits"], "optimization.build: 'toy_digits' is no reference"),
        (["toy_digits@candidate", "--student", "tiny"], "optimization.build: recipe 'tiny' is not one of digits"),
        (["toy_digits@candidate", "--set", "epoch=3"], "optimization.build: unknown setting 'epoch'"),
    ],
)
def test_the_command_answers_a_mistake_in_one_line(
    registry: Registry,
    teacher: Version,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run_main(monkeypatch, registry, cache, *arguments)
    assert str(caught.value.code).startswith(message)
    assert "\n" not in str(caught.value.code)
