import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from apps.launcher.local import ROOT, LocalCluster
from tests.toys import image_recipe
from tests.training.lost_worker import job
from training.launch import Compute, Trained, TrainJob, _has_gpus, _result, run_training
from training.loop.fit import Loss, TrainingError
from training.registry import Registry, Run
from training.task import Source

HERE = Compute(local=True)


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture
def run(registry: Registry) -> Run:
    return registry.start_run("launch", "test", {})


def _job(run: Run, registry: Registry, **changes: object) -> TrainJob:
    job = TrainJob(image_recipe(), Source(), registry.tracking_uri, run.run_id)
    return dataclasses.replace(job, **changes)


def _same(one: Trained, other: Trained) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_training_here_logs_every_epoch_to_the_run(
    registry: Registry, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = run_training(_job(run, registry), HERE)
    assert [record.epoch for record in trained.records] == [1, 2, 3, 4]
    client = MlflowClient(registry.tracking_uri)
    history = client.get_metric_history(run.run_id, "val_accuracy")
    assert [entry.value for entry in history] == [record.val_accuracy for record in trained.records]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 4
    assert "val accuracy" in lines[-1]
    assert lines[-1].endswith("0 s left")


def test_the_same_job_gives_the_same_weights(registry: Registry, run: Run) -> None:
    torch.manual_seed(1)
    first = run_training(_job(run, registry), HERE)
    torch.manual_seed(2)
    assert _same(run_training(_job(run, registry), HERE), first)


class _Halved:
    """Makes a loss that a job carries to its workers."""

    def __call__(self) -> Loss:
        def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(logits, labels) / 2

        return loss


def test_a_job_carries_its_loss(registry: Registry, run: Run) -> None:
    recipe = dataclasses.replace(image_recipe(), epochs=1)
    plain = run_training(_job(run, registry, recipe=recipe), HERE)
    job = pickle.loads(pickle.dumps(_job(run, registry, recipe=recipe, make_loss=_Halved())))
    # The same gradients up to a factor: AdamW's steps are the same, and the loss that is told is half.
    assert run_training(job, HERE).records[0].train_loss == pytest.approx(plain.records[0].train_loss / 2, rel=0.05)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"workers": 0}, "0 workers of 1 threads"),
        ({"threads": -1}, "1 workers of -1 threads"),
        ({"workers": 2, "local": True}, "2 workers need Ray"),
    ],
)
def test_an_impossible_compute_is_refused(compute: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Compute(**compute)


def test_workers_that_fail_for_good_are_told_of_in_one_line() -> None:
    from ray.train import TrainingFailedError

    class Trainer:
        def fit(self) -> None:
            raise TrainingFailedError("Training failed due to worker errors:\nTraceback\nValueError: too few rows\n")

    with pytest.raises(TrainingError, match=r"^the workers failed 4 times, at last with: ValueError: too few rows$"):
        _result(Trainer())


@pytest.mark.parametrize(("gpus", "workers", "used"), [(0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True)])
def test_gpus_are_used_where_every_worker_gets_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int, used: bool
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, **({"GPU": float(gpus)} if gpus else {})})
    assert _has_gpus(workers) is used


@pytest.mark.cluster
def test_ray_workers_train_on_after_one_was_lost(cluster: LocalCluster, tmp_path: Path) -> None:
    registry = Registry()
    run = registry.start_run("launch", "on Ray", {})
    command = [sys.executable, "-m", "tests.training.lost_worker", str(tmp_path), run.run_id]
    done = subprocess.run(
        command, env=cluster.environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "fallen").exists()
    assert json.loads((tmp_path / "epochs.json").read_text()) == [1, 2, 3, 4]
    assert not list((tmp_path / "storage").glob("*"))

    trained = load_file(tmp_path / "weights.safetensors")
    for name, tensor in run_training(job(run.run_id, fallen=None), HERE).weights.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=1e-5)
    steps = {entry.step for entry in MlflowClient(registry.tracking_uri).get_metric_history(run.run_id, "val_loss")}
    assert steps == {1, 2, 3, 4}
