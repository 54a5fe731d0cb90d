import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.tiny import publish_tiny, write_tiny
from tests.toys import images, texts, write_torch
from training.encoding import Array
from training.evaluate import main
from training.models.architecture import Architecture
from training.registry import Registry, Version
from training.task import Source, Task

pytestmark = pytest.mark.slow

CONVNET = Architecture("convnet", {"widths": [8]})
BAG = Architecture("bag_of_embeddings", {"vocabulary": 40, "embedding": 4, "hidden": 4})


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def version(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Version:
    return _publish(registry, images(Source()), "tests.toys:images", CONVNET, tmp_path_factory.mktemp("images"))


def _publish(registry: Registry, task: Task, reference: str, architecture: Architecture, folder: Path) -> Version:
    """An untrained model of `task`, as training registers one."""
    named = dataclasses.replace(task, name=reference)
    artifact = write_torch(folder / "artifact", named, architecture)
    tags = {"tandem.data_hash": task.data_hash, "tandem.recipe": "toys", "tandem.data_dir": ""}
    with registry.start_run(reference, "train", {}) as run:
        return registry.publish(task.name, artifact.folder, run, tags)


def by_corner(inputs: Array, labels: Array) -> dict[str, Array]:
    """Slices of the user's own: is the upper left pixel bright?"""
    return {"bright corner": inputs[:, 0, 0, 0] > 100}


def _run(monkeypatch: pytest.MonkeyPatch, registry: Registry, folder: Path, *arguments: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(
        sys, "argv", ["training.evaluate", *arguments, "--cache-dir", str(folder / "cache"), "--threads", "1"]
    )
    main()


def test_an_evaluation_is_a_run_below_the_one_that_made_the_version(
    registry: Registry,
    version: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = "tests.training.test_evaluate:by_corner"
    _run(
        monkeypatch,
        registry,
        tmp_path,
        version.reference,
        "--split",
        "gate",
        "--slices",
        own,
        "--out",
        str(tmp_path / "out"),
    )
    out = capsys.readouterr().out
    assert "Is it good?" in out and "What held it back?" in out
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    run = client.get_run(out.split("MLflow's run ")[1].split()[0])
    assert run.info.status == "FINISHED"
    assert run.data.tags["tandem.version"] == version.reference
    assert run.data.tags["mlflow.parentRunId"] == version.run_id
    metrics = run.data.metrics
    assert {"gate/accuracy", "gate/corrupted_accuracy", "gate/corrupted/jpeg_5", "gate/macro_auc"} <= metrics.keys()
    logged = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "evaluation.json", "plots"} <= logged
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written == json.loads(registry.read_artifact(run.info.run_id, "evaluation.json"))
    assert written["evaluation"]["accuracy"] == metrics["gate/accuracy"]
    (corner,) = [one for one in written["slices"] if one["group"] == "own"]
    assert corner["rows"] == int((images(Source()).splits["gate"].inputs[:, 0, 0, 0] > 100).sum())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the same as it was trained on" in page and "bright corner" in page
    assert (tmp_path / "out" / "plots" / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_split_is_called_published_and_corruptions_can_be_left_out(
    registry: Registry,
    version: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _run(
        monkeypatch,
        registry,
        tmp_path,
        version.reference,
        "--split",
        "report",
        "--no-corruptions",
        "--out",
        str(tmp_path),
    )
    assert "These are published figures" in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluation.json").read_text())["robustness"] is None
    assert "nothing may be chosen by them" in (tmp_path / "report.html").read_text()


def test_a_text_model_is_evaluated_too(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = _publish(registry, texts(Source()), "tests.toys:texts", BAG, tmp_path)
    _run(monkeypatch, registry, tmp_path, version.reference, "--corruption-rows", "20", "--out", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {one["corruption"] for one in found["robustness"]["results"]} == {
        "typing errors",
        "dropped words",
        "capitals",
    }


def test_what_is_no_torch_model_is_refused_in_one_line(
    registry: Registry, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, _ = publish_tiny(
        registry, tmp_path, model="tiny_evaluated", alias="champion", threshold=0.5, student_offset=0.0
    )  # fmt: skip
    with registry.start_run("tiny", "build", {}) as run:
        graph = registry.publish("tiny_graph", write_tiny(tmp_path / "graph", "student-int8", 0.0).folder, run, {})
    for reference, message in {
        release.reference: "is no model but a Release, a pair of two: evaluate its teacher and its student",
        graph.reference: "'tiny' names neither",
        f"{version.name}@999": "is not in the registry",
    }.items():
        with pytest.raises(SystemExit) as caught:
            _run(monkeypatch, registry, tmp_path, reference)
        assert str(caught.value.code).startswith("training.evaluate: ") and message in str(caught.value.code)
        assert "\n" not in str(caught.value.code)


def test_a_broken_model_ends_its_run_as_failed(
    registry: Registry, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training.module.predictor", lambda module: lambda batch: np.full((len(batch), 3), np.nan, np.float32)
    )
    with pytest.raises(SystemExit, match="hold NaN or infinity: the model is broken"):
        _run(monkeypatch, registry, tmp_path, version.reference)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    experiment = client.get_experiment_by_name("toy_images")
    newest = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=1)[0]
    assert newest.info.status == "FAILED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corruption-rows", "0"], "--corruption-rows is 0: leave corruptions out by --no-corruptions"),
        (["--slices", "brightness"], "slices 'brightness': name them as module:callable"),
    ],
)
def test_the_command_answers_a_mistake_in_one_line(
    registry: Registry,
    version: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(monkeypatch, registry, tmp_path, version.reference, *arguments)
    assert str(caught.value.code) == f"training.evaluate: {message}"
