"""Which rows a study may read, and which models belong together."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from optimization.benchmark import cascade_subject
from optimization.benchmark.cascade_subject import cut_rows, read_subject
from optimization.benchmark.cascade_times import Roles
from optimization.variants import range_split, threshold_split
from tests import duel
from training.registry import Registry
from training.task import Source, Split, Task

ROLES = Roles("student", "teacher", "teacher")


@pytest.fixture
def noise() -> Task:
    """The task of duels with calibration rows that are all different."""
    toy = duel.task(Source(), rows=400)
    calibration = toy.splits["calibration"]
    inputs = np.random.default_rng(0).integers(0, 256, calibration.inputs.shape, dtype=np.uint8)
    return dataclasses.replace(toy, splits={**toy.splits, "calibration": Split(inputs, calibration.labels)})


def _keys(split: Split) -> set[bytes]:
    return {row.tobytes() for row in split.inputs}


def test_rows_that_set_ranges_do_not_calibrate(noise: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = cut_rows(noise, threshold_split(noise))
    assert not _keys(rows["calibration"]) & _keys(range_split(noise))
    assert len(rows["calibration"]) + len(range_split(noise)) == 400
    assert (rows["gate"], rows["report"]) == (noise.splits["gate"], noise.splits["report"])
    monkeypatch.setattr(cascade_subject, "CALIBRATION_ROWS", 150)
    few = cut_rows(noise, threshold_split(noise))["calibration"]
    assert len(few) == 150
    assert _keys(few) < _keys(rows["calibration"])


@pytest.mark.parametrize(("calibration", "gate"), [(100, 400), (300, 300)])
def test_too_few_rows_are_refused_before_anything_is_made(noise: Task, calibration: int, gate: int) -> None:
    short = {name: Split(split.inputs[:gate], split.labels[:gate]) for name, split in noise.splits.items()}
    fresh = Split(noise.splits["calibration"].inputs[:calibration], noise.splits["calibration"].labels[:calibration])
    with pytest.raises(ValueError, match=f"has {calibration} calibration rows .* and {gate} gate rows"):
        cut_rows(dataclasses.replace(noise, splits=short), fresh)


@pytest.mark.slow
def test_graphs_by_folder_are_studied_on_the_task_s_own_rows(tmp_path: Path) -> None:
    models = [f"{name}={duel.write_model(tmp_path / name, name, flaw=flaw).folder}" for name, flaw in _FLAWS]
    found = read_subject(duel.TASK, Source(), None, models, ROLES, tmp_path / "work")
    assert list(found.artifacts) == ["teacher", "student"]
    assert {name: len(split) for name, split in found.rows.items()} == {"calibration": 420, "gate": 600, "report": 600}
    assert "teacher is an Artifact of digest" in found.models_by
    assert str(tmp_path) not in found.models_by + found.rows_by


@pytest.mark.slow
def test_what_a_folder_was_made_with_is_said_beside_it(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: duel.write_model(tmp_path / name, f"said-{name}", flaw=flaw) for name, flaw in _FLAWS}
    models = [f"{name}={artifact.folder}" for name, artifact in folders.items()]
    found = read_subject(duel.TASK, Source(), None, models, ROLES, tmp_path / "work", {"rows": 500})
    assert len(found.rows["gate"]) == 500
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    teacher = duel.publish_model(Registry(mlflow_uri), folders["teacher"], rows=500).reference
    mixed = [f"teacher={teacher}", models[1]]
    with pytest.raises(ValueError, match=r"the folder student .* was made with the default parameters"):
        read_subject(duel.TASK, Source(), None, mixed, ROLES, tmp_path / "work")
    both = read_subject(duel.TASK, Source(), None, mixed, ROLES, tmp_path / "work", {"rows": 500})
    assert len(both.rows["gate"]) == 500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "roles", "message"),
    [
        (["teacher"], ROLES, "--model teacher: write NAME=FOLDER"),
        (["student={student}"], ROLES, "two models are called 'student'"),
        ([], Roles("nobody", "teacher", "teacher"), "no variant 'nobody': there are teacher, student"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, more: list[str], roles: Roles, message: str
) -> None:
    folders = {name: str(duel.write_model(tmp_path / name, name, flaw=flaw).folder) for name, flaw in _FLAWS}
    models = [f"{name}={folder}" for name, folder in folders.items()] + [text.format(**folders) for text in more]
    with pytest.raises(ValueError, match=message):
        read_subject(duel.TASK, Source(), None, models, roles, tmp_path / "work")


@pytest.mark.slow
def test_versions_say_by_which_parameters_the_rows_are_cut(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    registry = Registry(mlflow_uri)
    teacher, student = (
        duel.publish_model(registry, duel.write_model(tmp_path / name, f"study-{name}", flaw=flaw), rows=500).reference
        for name, flaw in _FLAWS
    )
    models = [f"teacher={teacher}", f"student={student}"]
    found = read_subject(duel.TASK, Source(), None, models, ROLES, tmp_path / "work")
    assert len(found.rows["gate"]) == 500
    assert "rows=500" in found.rows_by
    assert found.models_by == f"teacher is {teacher}; student is {student}"
    other = duel.publish_model(registry, duel.write_model(tmp_path / "other", "study-other", flaw=2.0), rows=300)
    with pytest.raises(ValueError, match=f"{other.reference} was made with .*'rows': 300.* the models before it with"):
        read_subject(duel.TASK, Source(), None, [*models, f"other={other.reference}"], ROLES, tmp_path / "work")


_FLAWS = (("teacher", 0.0), ("student", 1.0))
