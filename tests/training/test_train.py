import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from tests.toys import image_recipe
from training import train as train_module
from training.artifact import load_artifact
from training.checkpoint.store import SupersededError
from training.launch.job import Compute, Interrupted, Observation
from training.launch.run_folder import RunFolder
from training.loop.training import TrainingError
from training.module import load_module, predictor
from training.options import absolute_path
from training.recipe import Recipe
from training.registry import Registry, RegistryError, Run, Version
from training.task import Source, load_task
from training.train import main, prepare, train

pytestmark = pytest.mark.slow

REFERENCE = "tests.toys:image_recipe"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Compute:
    return Compute(local=True, storage=str(tmp_path_factory.mktemp("storage")))


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def version(registry: Registry, here: Compute) -> Version:
    return train(REFERENCE, image_recipe(), Source(), registry, here)


def _client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry.tracking_uri)


def _artifacts(registry: Registry, run_id: str, folder: str = "") -> set[str]:
    return {entry.path for entry in _client(registry).list_artifacts(run_id, folder)}


def _runs(registry: Registry) -> dict[str, str]:
    client = _client(registry)
    experiment = client.get_experiment_by_name("toy_images")
    return {run.info.run_id: run.info.status for run in client.search_runs([experiment.experiment_id])}


def test_the_teacher_is_the_candidate_and_answers_right(registry: Registry, version: Version, tmp_path: Path) -> None:
    candidate = registry.resolve("toy_images@candidate")
    assert candidate == version
    artifact = load_artifact(registry.fetch(candidate, tmp_path))
    assert artifact.manifest.variant == "teacher"
    assert artifact.manifest.format == "torch"
    assert artifact.manifest.architecture == image_recipe().architecture
    split = load_task(artifact.manifest.task, Source()).splits["report"]
    answers = predictor(load_module(artifact))(split.inputs).argmax(axis=1)
    assert (answers == split.labels).mean() > 0.9


def test_a_version_says_what_it_was_made_from(registry: Registry, version: Version) -> None:
    task = load_task("tests.toys:images", Source())
    assert version.tags["tandem.recipe"] == REFERENCE
    assert version.tags["tandem.task"] == "tests.toys:images"
    assert version.tags["tandem.data_hash"] == task.data_hash
    assert version.tags["tandem.variant"] == "teacher"
    assert version.tags.get("tandem.parent", "") == ""
    run = _client(registry).get_run(version.run_id)
    assert run.data.tags["tandem.recipe"] == REFERENCE
    assert run.data.tags["tandem.data_hash"] == task.data_hash


def test_a_run_holds_parameters_curves_and_report(registry: Registry, version: Version) -> None:
    client = _client(registry)
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.01"
    for name in ("train_loss", "val_loss", "val_accuracy", "learning_rate", "samples_per_s"):
        history = client.get_metric_history(version.run_id, name)
        assert [entry.step for entry in history] == [1, 2, 3, 4], name
    assert run.data.metrics["val/accuracy"] == pytest.approx(float(version.tags["tandem.val_accuracy"]), abs=1e-4)
    assert run.data.metrics["report/accuracy"] > 0.9
    assert "report.html" in _artifacts(registry, version.run_id)
    plots = {f"plots/{name}.png" for name in ("curves", "confusion", "reliability", "per_class", "roc", "coverage")}
    assert plots <= _artifacts(registry, version.run_id, "plots")
    page = registry.read_artifact(version.run_id, "report.html").decode()
    assert "toy_images teacher by recipe" in page
    assert "Is it good?" in page and "<h2>The training</h2>" in page
    found = json.loads(registry.read_artifact(version.run_id, "evaluation.json"))
    assert found["evaluation"]["accuracy"] == pytest.approx(run.data.metrics["val/accuracy"])
    assert found["robustness"] is None


def test_a_diverged_training_registers_nothing(registry: Registry, version: Version, here: Compute) -> None:
    before = _runs(registry)
    wild = dataclasses.replace(
        image_recipe(), optimizer=dataclasses.replace(image_recipe().optimizer, name="sgd", lr=1e30), clip_norm=1e30
    )
    with pytest.raises(TrainingError, match="not finite at epoch 1"):
        train(REFERENCE, wild, Source(), registry, here)
    new = {run_id: status for run_id, status in _runs(registry).items() if run_id not in before}
    assert list(new.values()) == ["FAILED"]
    assert registry.resolve("toy_images@candidate") == version
    with pytest.raises(RegistryError):
        registry.resolve(f"toy_images@{version.number + 1}")


def test_a_report_that_fails_registers_nothing(
    registry: Registry, version: Version, here: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **more: object) -> str:
        raise OSError("no room for the report")

    before, recipe = _runs(registry), dataclasses.replace(image_recipe(), epochs=1)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no room"):
        patched.setattr("training.evaluation.closing.make_report", broken)
        train(REFERENCE, recipe, Source(), registry, here)
    ((run_id, status),) = _runs(registry).items() - before.items()
    assert status == "FAILED"
    assert registry.resolve("toy_images@candidate") == version

    again = train(REFERENCE, recipe, Source(), registry, here)
    assert again.run_id == run_id
    assert "it was trained in one go" in registry.read_artifact(run_id, "report.html").decode()


def test_a_log_that_cannot_be_kept_registers_nothing(
    registry: Registry, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Run, paths: object) -> None:
        raise RegistryError("no room for log.jsonl")

    monkeypatch.setattr(Run, "log_files", refuse)
    newest = registry.resolve("toy_images@candidate")
    with pytest.raises(RegistryError, match="no room"):
        train(REFERENCE, image_recipe(), Source(), registry, Compute(local=True, storage=str(tmp_path)))
    assert registry.resolve("toy_images@candidate") == newest
    with pytest.raises(RegistryError):
        registry.resolve(f"toy_images@{newest.number + 1}")


def _run_main(monkeypatch: pytest.MonkeyPatch, registry: Registry, *arguments: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["training.train", *arguments])
    main()


def test_the_command_says_what_it_registered_and_what_comes_next(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "epochs=2", "--set", "optimizer.lr=0.02"]
    _run_main(monkeypatch, registry, REFERENCE, "--local", "--storage", str(tmp_path), *settings)
    version = registry.resolve("toy_images@candidate")
    run = _client(registry).get_run(version.run_id)
    assert (run.data.params["epochs"], run.data.params["optimizer.lr"]) == ("2", "0.02")
    out = capsys.readouterr().out
    assert "epoch   2/2" in out
    assert f"registered {version.reference} (alias candidate)" in out
    assert "python -m optimization.build toy_images@candidate" in out


@contextlib.contextmanager
def _told_at_once(act: Callable[[], None]) -> Iterator[None]:
    act()
    yield


def _interrupt(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, recipe: Recipe, compute: Compute, at: str = "epoch 1, step 1"
) -> str:
    """The run of a training that was stopped after its first step."""
    before = set(_runs(registry))
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match=f"stopped at {at}"):
        patched.setattr("training.launch.here.on_termination", _told_at_once)
        train(REFERENCE, recipe, Source(), registry, compute)
    return next(iter(set(_runs(registry)) - before), "")


def test_a_registry_that_stumbles_costs_no_training(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, recipe = Compute(local=True, storage=str(tmp_path)), dataclasses.replace(image_recipe(), seed=6)
    run_id = _interrupt(monkeypatch, registry, recipe, compute)

    def stumble(self: MlflowClient, run_id: str) -> None:
        raise MlflowException("the database is locked", error_code=INTERNAL_ERROR)

    with monkeypatch.context() as patched, pytest.raises(RegistryError, match="the database is locked"):
        patched.setattr(MlflowClient, "get_run", stumble)
        train(REFERENCE, recipe, Source(), registry, compute)
    assert train(REFERENCE, recipe, Source(), registry, compute).run_id == run_id
    assert "going on at epoch 1, step 1" in capsys.readouterr().out


def test_a_run_that_was_deleted_takes_no_checkpoint_with_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, recipe = Compute(local=True, storage=str(tmp_path)), dataclasses.replace(image_recipe(), seed=7)
    run_id = _interrupt(monkeypatch, registry, recipe, compute)
    _client(registry).delete_run(run_id)
    assert train(REFERENCE, recipe, Source(), registry, compute).run_id != run_id
    assert "going on at epoch 1, step 1" in capsys.readouterr().out


def test_what_befell_a_training_is_written_down_where_it_fails_too(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, recipe = Compute(local=True, storage=str(tmp_path)), dataclasses.replace(image_recipe(), seed=8)
    run_id = _interrupt(monkeypatch, registry, recipe, compute)
    assert {"log.jsonl", "recoveries.json"} <= _artifacts(registry, run_id)
    assert json.loads(registry.read_artifact(run_id, "recoveries.json")) == []

    (torn,) = tmp_path.glob("*/checkpoints/epoch-*")
    shutil.copytree(torn, torn.with_name("epoch-00001-step-0000002-attempt-001"))
    (torn.with_name("epoch-00001-step-0000002-attempt-001") / "state.pt").write_bytes(b"torn")
    _interrupt(monkeypatch, registry, recipe, compute, at="epoch 1, step 2")
    (recovery,) = json.loads(registry.read_artifact(run_id, "recoveries.json"))
    assert (recovery["epoch"], recovery["step"]) == (1, 1)
    assert list(recovery["rejected"]) == ["epoch-00001-step-0000002-attempt-001"]

    train(REFERENCE, recipe, Source(), registry, compute)
    page = registry.read_artifact(run_id, "report.html").decode()
    assert "Passed over" in page
    assert "epoch-00001-step-0000002-attempt-001/state.pt has sha256" in page


def test_a_training_that_runs_elsewhere_leaves_the_run_to_the_other_one(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*arguments: object) -> None:
        raise SupersededError("attempt 1 of the training in x was overtaken by attempt 2")

    monkeypatch.setattr(train_module, "run_training", overtaken)
    before = set(_runs(registry))
    with pytest.raises(SystemExit) as caught:
        _run_main(monkeypatch, registry, REFERENCE, "--local", "--storage", str(tmp_path), "--set", "seed=9")
    assert caught.value.code == "training.train: attempt 1 of the training in x was overtaken by attempt 2"
    (run_id,) = set(_runs(registry)) - before
    assert _runs(registry)[run_id] == "RUNNING"
    assert not _artifacts(registry, run_id)


def test_a_training_that_was_interrupted_goes_on_in_its_own_run(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, recipe = Compute(local=True, storage=str(tmp_path)), dataclasses.replace(image_recipe(), seed=5)
    run_id = _interrupt(monkeypatch, registry, recipe, compute)
    assert _runs(registry)[run_id] == "KILLED"

    version = train(REFERENCE, recipe, Source(), registry, compute)
    assert version.run_id == run_id
    assert _runs(registry)[run_id] == "FINISHED"
    assert "going on at epoch 1, step 1" in capsys.readouterr().out
    page = registry.read_artifact(run_id, "report.html").decode()
    assert "stopped between two steps, as it was asked to" in page
    assert "Where the time went" in page
    assert not list(tmp_path.iterdir())

    # Registered, and then killed before it was cleared: the next one is a training of its own.
    _, job = prepare(recipe, Source(), "", Observation(), None)
    RunFolder(compute.folder(job)).remember_run(run_id)
    capsys.readouterr()
    assert train(REFERENCE, recipe, Source(), registry, compute).run_id != run_id
    assert "going on" not in capsys.readouterr().out


def test_a_training_may_begin_with_the_weights_of_another(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = Compute(local=True, storage=str(tmp_path / "storage"))
    first = registry.fetch(train(REFERENCE, image_recipe(), Source(), registry, compute), tmp_path / "cache")
    recipe = dataclasses.replace(image_recipe(), epochs=1)
    begun = train(REFERENCE, recipe, Source(), registry, compute, init_from=first)
    assert "loaded" in capsys.readouterr().out
    history = _client(registry).get_metric_history(begun.run_id, "val_accuracy")
    assert history[0].value > 0.9


def test_a_training_is_known_by_what_the_weights_are_that_it_begins_with(tmp_path: Path) -> None:
    def identity(weights: Path) -> str:
        return prepare(image_recipe(), Source(), "", Observation(), weights)[1].identity

    for name, content in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).write_bytes(content)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "manifest.json").write_bytes(b"{}")
    known = [identity(tmp_path / name) for name in ("one", "same", "other", "artifact")]
    assert known[0] == known[1]
    assert len(set(known)) == 3
    with pytest.raises(ValueError, match=r"init_from .*/absent: there is neither a file of weights nor an Artifact"):
        identity(tmp_path / "absent")


@pytest.mark.parametrize(("local", "gives_way"), [(True, 0), (False, 1)])
def test_an_evaluation_takes_no_more_than_a_worker_does(
    monkeypatch: pytest.MonkeyPatch, local: bool, gives_way: int
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(train_module, "give_way", lambda: asked.append(True))
    train_module._keep_to_its_share(Compute(threads=3, local=local))
    assert torch.get_num_threads() == 3
    assert len(asked) == gives_way


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such"], "training.train: recipe 'no_such' is not one of digits"),
        ([REFERENCE, "--set", "optimizer.speed=3"], "training.train: unknown setting 'optimizer.speed'"),
        ([REFERENCE, "--set", "task=no_such"], "training.train: 'no_such' names neither"),
        ([REFERENCE, "--set", "batch_size=0"], "training.train: batch_size is 0"),
    ],
)
def test_the_command_answers_a_mistake_in_one_line(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run_main(monkeypatch, registry, *arguments, "--local")
    assert str(caught.value.code).startswith(message)
    assert "\n" not in str(caught.value.code)


def test_paths_that_travel_to_workers_are_absolute(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = {}

    def record(
        reference: str, recipe: Recipe, source: Source, registry: Registry, compute: Compute,
        observation: Observation, init_from: Path,
    ) -> Version:  # fmt: skip
        seen.update(location=source.location, cache=source.cache_dir, storage=compute.storage)
        assert (compute.checkpoint_every_epochs, compute.keep_last) == (3, 5)
        seen.update(init_from=init_from, tensorboard=observation.tensorboard)
        return Version("toy_images", 1, "", "", {})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_module, "train", record)
    _run_main(
        monkeypatch, registry, REFERENCE, "--data-dir", "data", "--tensorboard", "board", "--init-from", "w",
        "--checkpoint-every-epochs", "3", "--keep-last", "5",
    )  # fmt: skip
    state = tmp_path / ".tandem"
    assert seen == {
        "location": str(tmp_path / "data"), "cache": state / "data", "storage": str(state / "train"),
        "init_from": tmp_path / "w", "tensorboard": tmp_path / "board",
    }  # fmt: skip
    assert absolute_path("x") == tmp_path / "x"
