import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from tests.tiny import write_tiny
from training.artifact import MANIFEST_FILE, Artifact, load_artifact
from training.champion import MOVE_NOTE, Standing, crown, roll_back
from training.checkpoint.store import SupersededError
from training.launch.job import Interrupted
from training.reach import REACH_TIMEOUT_S
from training.registry import DIGEST_TAG, IDENTITY_TAG, Registry, RegistryError, Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def run(registry: Registry) -> Run:
    return registry.start_run("registry", "test", {"tandem.recipe": "toy"})


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).split("[")[0].removeprefix("test_")[:60]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_tiny(tmp_path / "made", "student", offset=1.0)


def _client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry.tracking_uri)


def test_a_version_is_published_resolved_and_fetched(
    registry: Registry, run: Run, artifact: Artifact, name: str, tmp_path: Path
) -> None:
    version = registry.publish(name, artifact.folder, run, {"tandem.variant": "student"})
    assert (version.name, version.number, version.digest) == (name, 1, artifact.digest)
    assert version.run_id == run.run_id
    assert version.tags["tandem.variant"] == "student"
    assert version.reference == f"{name}@1"

    assert registry.resolve(f"{name}@1") == version
    registry.promote(name, 1, "candidate")
    assert registry.resolve(f"{name}@candidate") == version

    folder = registry.fetch(version, tmp_path / "cache")
    assert load_artifact(folder).manifest == artifact.manifest
    assert folder == tmp_path / "cache" / artifact.digest
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [artifact.digest]


def test_versions_are_numbered_and_told_apart(registry: Registry, run: Run, name: str, tmp_path: Path) -> None:
    versions = [
        registry.publish(name, write_tiny(tmp_path / str(offset), "student", offset).folder, run, {})
        for offset in (1.0, 2.0)
    ]
    assert [version.number for version in versions] == [1, 2]
    registry.promote(name, 1, "candidate")
    registry.promote(name, 2, "candidate")
    assert registry.resolve(f"{name}@candidate").digest == versions[1].digest
    fetched = [registry.fetch(version, tmp_path / "cache") for version in versions]
    assert [load_artifact(folder).digest for folder in fetched] == [version.digest for version in versions]


def test_a_fetched_version_is_downloaded_once(
    registry: Registry, run: Run, artifact: Artifact, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish(name, artifact.folder, run, {})
    first = registry.fetch(version, tmp_path / "cache")
    monkeypatch.setattr(registry, "_download", lambda *arguments: pytest.fail("downloaded again"))
    assert registry.fetch(version, tmp_path / "cache") == first


def test_two_who_fetch_at_once_both_get_the_whole_folder(
    registry: Registry, run: Run, artifact: Artifact, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish(name, artifact.folder, run, {})
    download, both = registry._download, threading.Barrier(2, timeout=30)

    def together(*arguments: Any) -> None:
        download(*arguments)
        both.wait()

    monkeypatch.setattr(registry, "_download", together)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: registry.fetch(version, tmp_path / "cache"), range(2)))
    assert [load_artifact(folder).digest for folder in folders] == [artifact.digest] * 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [artifact.digest]


def test_a_swapped_folder_is_noticed_by_its_digest(
    registry: Registry, run: Run, artifact: Artifact, name: str, tmp_path: Path
) -> None:
    version = registry.publish(name, artifact.folder, run, {})
    other = write_tiny(tmp_path / "other", "student", offset=9.0)
    _client(registry).log_artifacts(run.run_id, str(other.folder), f"versions/{version.digest[:16]}")
    with pytest.raises(RegistryError, match=rf"{name}@1: manifest\.json has sha256 .* not the one that was published"):
        registry.fetch(version, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_swapped_model_file_is_noticed_when_the_artifact_is_loaded(
    registry: Registry, run: Run, artifact: Artifact, name: str, tmp_path: Path
) -> None:
    version = registry.publish(name, artifact.folder, run, {})
    (tmp_path / "model.onnx").write_bytes(b"another graph")
    _client(registry).log_artifact(run.run_id, str(tmp_path / "model.onnx"), f"versions/{version.digest[:16]}")
    with pytest.raises(ValueError, match=r"model\.onnx has sha256"):
        load_artifact(registry.fetch(version, tmp_path / "cache"))


@pytest.mark.parametrize(("tag", "value"), [(DIGEST_TAG, ".."), (DIGEST_TAG, "a" * 63), (IDENTITY_TAG, "../x")])
def test_a_tag_that_is_no_hash_or_file_name_never_becomes_a_path(
    registry: Registry, run: Run, artifact: Artifact, name: str, tag: str, value: str
) -> None:
    version = registry.publish(name, artifact.folder, run, {})
    _client(registry).set_model_version_tag(name, str(version.number), tag, value)
    with pytest.raises(RegistryError, match=f"was not published by Tandem: .*{value}"):
        registry.resolve(version.reference)


def test_a_version_that_others_registered_is_refused(
    registry: Registry, run: Run, artifact: Artifact, name: str
) -> None:
    version = registry.publish(name, artifact.folder, run, {})
    _client(registry).delete_model_version_tag(name, "1", DIGEST_TAG)
    with pytest.raises(RegistryError, match="was not published by Tandem"):
        registry.resolve(version.reference)


def test_a_release_file_may_stand_for_its_folder(registry: Registry, run: Run, name: str, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "release.json").write_bytes(b"{}")
    version = registry.publish(name, tmp_path / "r", run, {}, identity="release.json")
    assert (registry.fetch(version, tmp_path / "cache") / "release.json").read_bytes() == b"{}"


def test_crowning_keeps_the_champion_before(registry: Registry, run: Run, name: str, tmp_path: Path) -> None:
    for offset in (1.0, 2.0, 3.0):
        registry.publish(name, write_tiny(tmp_path / str(offset), "student", offset).folder, run, {})
    crown(registry, name, 1)
    assert registry.resolve(f"{name}@champion").number == 1
    with pytest.raises(RegistryError, match="previous"):
        registry.resolve(f"{name}@previous")
    crown(registry, name, 2)
    crown(registry, name, 3)
    crown(registry, name, 3)  # crowned twice, it does not become its own predecessor
    assert registry.resolve(f"{name}@champion").number == 3
    assert registry.resolve(f"{name}@previous").number == 2


def test_a_crowning_that_fails_keeps_the_champion(registry: Registry, run: Run, artifact: Artifact, name: str) -> None:
    registry.publish(name, artifact.folder, run, {})
    crown(registry, name, 1)
    with pytest.raises(RegistryError):
        crown(registry, name, 7)
    assert registry.aliases(name) == {"champion": 1}


def test_a_rollback_on_a_real_registry_swaps_the_two_and_leaves_no_note(
    registry: Registry, run: Run, name: str, tmp_path: Path
) -> None:
    for offset in (1.0, 2.0):
        registry.publish(name, write_tiny(tmp_path / str(offset), "student", offset).folder, run, {})
        crown(registry, name, int(offset))
    assert roll_back(registry, name) == Standing(1, 2)
    assert registry.aliases(name) == {"champion": 1, "previous": 2}
    assert registry.read_note(name, MOVE_NOTE) is None
    assert roll_back(registry, name) == Standing(2, 1)


def test_tags_notes_and_files_are_kept(registry: Registry, run: Run, artifact: Artifact, name: str) -> None:
    version = registry.publish(name, artifact.folder, run, {"tandem.variant": "student"})
    registry.tag(version, {"tandem.promotion": "failed"})
    tagged = registry.resolve(version.reference).tags
    assert (tagged["tandem.promotion"], tagged["tandem.variant"]) == ("failed", "student")
    registry.write_note(name, "tandem.note", "one")
    assert registry.read_note(name, "tandem.note") == "one"
    registry.write_note(name, "tandem.note", None)
    assert registry.read_note(name, "tandem.note") is None
    run.log_text("{}", "some/folder/a.json")
    assert registry.list_artifacts(run.run_id, "some/folder") == ("some/folder/a.json",)
    assert registry.list_artifacts(run.run_id, "no/folder") == ()
    registry.promote(name, 1, "candidate")
    registry.drop_alias(name, "candidate")
    assert registry.aliases(name) == {}
    with pytest.raises(RegistryError, match="read the aliases of 'no_such'"):
        registry.aliases("no_such")


def test_a_version_is_found_by_its_digest(registry: Registry, run: Run, name: str, tmp_path: Path) -> None:
    first, second = (
        registry.publish(name, write_tiny(tmp_path / str(offset), "student", offset).folder, run, {})
        for offset in (1.0, 2.0)
    )
    again = registry.publish(name, tmp_path / "1.0", run, {})
    assert registry.find(name, second.digest) == second
    assert registry.find(name, first.digest) == again, "the newest of those that are the same"
    assert registry.find(name, "0" * 64) is None


@pytest.mark.parametrize("wanted", ["newest", "9", "0"])
def test_an_unknown_version_is_refused_with_what_there_is(
    registry: Registry, run: Run, artifact: Artifact, name: str, wanted: str
) -> None:
    newest = registry.publish(name, artifact.folder, run, {}).number
    registry.promote(name, 1, "candidate")
    registry.promote(name, 1, "champion")
    with pytest.raises(RegistryError) as caught:
        registry.resolve(f"{name}@{wanted}")
    assert f"{name}@{wanted}' is not in the registry at {registry.tracking_uri}" in str(caught.value)
    assert f"has versions up to {newest} and the aliases candidate (1), champion (1)" in str(caught.value)


def test_an_unknown_name_is_refused_with_the_names_there_are(
    registry: Registry, run: Run, artifact: Artifact, name: str
) -> None:
    registry.publish(name, artifact.folder, run, {})
    with pytest.raises(RegistryError, match=rf"'no_such@champion' is not in the registry .*\b{name}\b"):
        registry.resolve("no_such@champion")


@pytest.mark.parametrize("reference", ["digits", "digits@", "@champion", ""])
def test_what_is_no_reference_is_refused(registry: Registry, reference: str) -> None:
    with pytest.raises(RegistryError, match="write name@alias or name@number"):
        registry.resolve(reference)


def test_promoting_what_is_not_there_is_refused(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="cannot point no_such@champion to version 3"):
        registry.promote("no_such", 3, "champion")


def test_a_publishing_that_fails_registers_nothing(
    registry: Registry, run: Run, artifact: Artifact, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*arguments: object) -> None:
        raise ConnectionError("the upload was cut off")

    with monkeypatch.context() as patched:
        patched.setattr(registry._client, "log_artifacts", cut_off)
        with pytest.raises(RegistryError, match=r"cannot publish .*: the upload was cut off"):
            registry.publish(name, artifact.folder, run, {})
    (artifact.folder / MANIFEST_FILE).rename(artifact.folder / "gone")
    with pytest.raises(RegistryError, match=r"it holds no manifest\.json"):
        registry.publish(name, artifact.folder, run, {})
    with pytest.raises(RegistryError, match=f"'{name}@1' is not in the registry"):
        registry.resolve(f"{name}@1")
    assert not [model for model in _client(registry).search_registered_models() if model.name == name]


def test_what_a_run_cannot_log_is_told_as_the_registrys_error(registry: Registry) -> None:
    from matplotlib.figure import Figure

    lost = registry.run("0" * 32)
    with pytest.raises(RegistryError, match="cannot log parameters to run 0000"):
        lost.log_params({"seed": 1})
    with pytest.raises(RegistryError, match="cannot log metrics to run 0000"):
        lost.log_metrics({"loss": 1.0})
    with pytest.raises(RegistryError, match="cannot log plots to run 0000"):
        lost.log_figures({"empty": Figure()})
    with pytest.raises(RegistryError, match=r"cannot log report\.html to run 0000"):
        lost.log_text("", "report.html")
    with pytest.raises(RegistryError, match="cannot end run 0000"):
        lost.end()


def test_a_run_keeps_what_is_logged_and_how_it_ended(registry: Registry) -> None:
    from matplotlib.figure import Figure

    made = registry.start_run("runs", "one", {"tandem.recipe": "toy"})
    made.log_params({"optimizer.lr": 0.1, "long": "x" * 900})
    made.log_params({f"architecture.sizes.layer{number}": (8, 8) for number in range(230)})
    made.log_metrics({"val_accuracy": 0.5}, step=1)
    made.log_metrics({"val_accuracy": 0.75}, step=2)
    made.log_text("<p>report</p>", "report.html")
    made.log_figures({"curves": Figure()})
    made.end("FAILED")
    client = _client(registry)
    seen = client.get_run(made.run_id)
    assert seen.info.status == "FAILED"
    assert seen.info.run_name == "one"
    assert seen.data.params["optimizer.lr"] == "0.1"
    assert len([name for name in seen.data.params if name.startswith("architecture.sizes.")]) == 230
    assert [entry.value for entry in client.get_metric_history(made.run_id, "val_accuracy")] == [0.5, 0.75]
    assert registry.read_artifact(made.run_id, "report.html") == b"<p>report</p>"
    assert registry.read_artifact(made.run_id, "plots/curves.png").startswith(b"\x89PNG")
    with pytest.raises(RegistryError, match=rf"run {made.run_id} has no artifact 'comparison\.json'"):
        registry.read_artifact(made.run_id, "comparison.json")
    assert registry.run(made.run_id).run_id == made.run_id


def test_a_run_stands_as_mlflow_says_and_is_missing_only_where_mlflow_says_so(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = registry.start_run("runs", "one", {})
    assert registry.status(made.run_id) == "RUNNING"
    made.end("KILLED")
    assert registry.status(made.run_id) == "KILLED"
    made.reopen()
    assert registry.status(made.run_id) == "RUNNING"
    _client(registry).delete_run(made.run_id)
    assert registry.status(made.run_id) is None
    assert registry.status("0" * 32) is None

    def stumble(self: MlflowClient, run_id: str) -> Any:
        raise MlflowException("the database is locked", error_code=INTERNAL_ERROR)

    monkeypatch.setattr(MlflowClient, "get_run", stumble)
    with pytest.raises(RegistryError, match=f"cannot ask for run {made.run_id}: the database is locked"):
        registry.status(made.run_id)


def test_a_run_says_at_which_steps_it_has_a_metric(registry: Registry) -> None:
    made = registry.start_run("runs", "one", {})
    assert made.steps_of("val_loss") == set()
    for step in (1, 3):
        made.log_metrics({"val_loss": 0.5}, step=step)
    assert made.steps_of("val_loss") == {1, 3}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("x"), "FAILED"),
        (Interrupted("x"), "KILLED"),
        (SupersededError("the other one logs to it"), "RUNNING"),
    ],
)
def test_a_run_ends_as_its_block_did(registry: Registry, error: Exception | None, status: str) -> None:
    run = registry.start_run("runs", "one", {})
    with contextlib.suppress(Exception), run:
        if error:
            raise error
    assert registry.status(run.run_id) == status


def test_an_experiment_is_used_again(registry: Registry) -> None:
    runs = [registry.start_run("shared", str(number), {}).run_id for number in range(2)]
    ids = {_client(registry).get_run(run_id).info.experiment_id for run_id in runs}
    assert len(ids) == 1


def test_an_address_must_be_given(monkeypatch: pytest.MonkeyPatch, mlflow_uri: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI is not set"):
        Registry()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert Registry().tracking_uri == mlflow_uri


def test_an_absent_server_is_said_at_once() -> None:
    with socket.socket() as taken:  # bound but not listening: nothing answers, and nobody else can take it
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(RegistryError, match=f"no MLflow server answers at {address}"):
            Registry(address)
    assert time.monotonic() - began < 12


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REACH_TIMEOUT_S < 12
    monkeypatch.setattr("training.reach.REACH_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryError, match="no MLflow server answers"):
            Registry(address)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_a_database_serves_without_a_server(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow lays the artifacts of a bare database
    direct = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = direct.start_run("toy", "one", {})
    version = direct.publish("toy", artifact.folder, run, {})
    crown(direct, "toy", version.number)
    os.chdir("/")
    folder = direct.fetch(direct.resolve("toy@champion"), tmp_path / "cache")
    assert load_artifact(folder).digest == artifact.digest
