"""The command against a real MLflow: what it registers, how it is reached again, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest

from optimization.prune.__main__ import main
from optimization.prune.publish import Order
from optimization.prune.settings import Sparsify
from tests.optimization.prune.conftest import Trained
from tests.toys import digits_recipe
from training.artifact import load_artifact
from training.lineage import version_tags
from training.models.sizes import sizes_of
from training.module import load_module
from training.registry import Registry, RegistryError, Version
from training.task import Source

pytestmark = pytest.mark.slow

RECIPE = "tests.toys:digits_recipe"
# The fixture's network is another than the recipe's.
SAME_NETWORK = ["--recipe-set", "architecture=resnet", "--recipe-set", "batch_size=100"]


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def version(registry: Registry, digits: Trained) -> Version:
    with registry.start_run("toy_digits", "train", {}) as run:
        tags = version_tags(RECIPE, digits_recipe().task_params, Source(), digits.task, digits.artifact)
        return registry.publish("toy_digits", digits.artifact.folder, run, tags)


def _run(monkeypatch: pytest.MonkeyPatch, registry: Registry, folder: Path, *arguments: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setattr(sys, "argv", ["optimization.prune", *arguments, "--local", "--threads", "1"])
    main()


def test_a_version_is_pruned_and_registered_with_its_lineage(
    registry: Registry,
    version: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _run(
        monkeypatch, registry, tmp_path, version.reference, "--amount", "0.5", "--sensitivity",
        "--set", "fine_tune.epochs=1", "--set", "criterion=l1", *SAME_NETWORK,
    )  # fmt: skip
    made = registry.resolve(f"toy_digits@{version.number + 1}")
    assert f"registered {made.reference}, val accuracy" in capsys.readouterr().out
    artifact = load_artifact(registry.fetch(made, tmp_path / "cache"))
    assert artifact.manifest.parent == version.digest
    assert sizes_of(load_module(artifact))["2.first.0"] == (8, 8)
    assert made.tags["tandem.teacher_version"] == version.reference
    assert made.tags["tandem.data_hash"] == version.tags["tandem.data_hash"]
    assert json.loads(made.tags["tandem.prune"])["criterion"] == "l1"
    said = json.loads(registry.read_artifact(made.run_id, "prune.json"))
    assert f"{said['rounds'][-1]['accuracy_tuned']:.4f}" == made.tags["tandem.val_accuracy"]
    layers = json.loads(registry.read_artifact(made.run_id, "sensitivity.json"))["layers"]
    assert [layer["layer"] for layer in layers] == list(said["before"]["widths"])
    assert registry.read_artifact(made.run_id, "plots/sensitivity.png").startswith(b"\x89PNG")


def test_single_weights_are_zeroed_where_it_is_asked_so(
    registry: Registry, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons = ["--set", "fine_tune.epochs=0"]
    _run(monkeypatch, registry, tmp_path, version.reference, "--sparse", "--amount", "0.7", *lessons)
    number = max(int(one) for one in _numbers(registry))
    made = registry.resolve(f"toy_digits@{number}")
    assert json.loads(registry.read_artifact(made.run_id, "prune.json"))["sparsity"] == pytest.approx(0.7, abs=1e-3)


def _numbers(registry: Registry) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    return [one.version for one in client.search_model_versions("name='toy_digits'")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--amount", "2"], r"amount is 2\.0: it is a share of the channels"),
        ([], "amount is None and speedup is None: give one of the two"),
        (["--sparse", "--speedup", "2"], "zeros among the weights make nothing faster"),
        (["--amount", "0.5", "--set", "epochs=3"], "unknown setting 'epochs'; there is: amount, speedup"),
        (["--amount", "0.5", "--recipe", "fashion_mnist"], "'fashion_mnist' is for 'fashion_mnist', toy_digits@"),
        (["--amount", "0.5", "--set", "round_to=32"], "nothing is taken out"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_registered(
    registry: Registry,
    version: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    before = sorted(_numbers(registry))
    with pytest.raises(SystemExit, match=message):
        _run(monkeypatch, registry, tmp_path, version.reference, *arguments)
    assert sorted(_numbers(registry)) == before


def test_an_unknown_version_is_refused(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="'toy_digits@999' is not in the registry"):
        _run(monkeypatch, registry, tmp_path, "toy_digits@999", "--amount", "0.5")
    with pytest.raises(RegistryError):
        registry.resolve("toy_digits@999")


def test_the_sensitivity_of_single_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="it is not measured for weights or blocks"):
        Order(Sparsify(), RECIPE, digits_recipe(), Source(), sensitivity=True)
