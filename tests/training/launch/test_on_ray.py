"""A training on Ray Train's workers: killed, short of a node, without its driver, and asked to stop."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from apps.launcher.local import ROOT, LocalCluster
from tests.training.launch.test_here import _recoveries, _require_every_row_once_an_epoch, _same, _wait_for
from training.launch.on_ray import _fit, _has_gpus
from training.loop.training import TrainingError
from training.registry import Registry

PROGRAM = "training.benchmark.trainee"
pytestmark = pytest.mark.timeout(900)


def test_workers_that_fail_for_good_are_told_of_in_one_line() -> None:
    from ray.train import TrainingFailedError

    class Trainer:
        def fit(self) -> None:
            raise TrainingFailedError("Training failed due to worker errors:\nTraceback\nValueError: too few rows\n")

    with pytest.raises(TrainingError, match=r"^the workers failed 4 times, at last with: ValueError: too few rows$"):
        _fit(Trainer())


@pytest.mark.parametrize(("gpus", "workers", "used"), [(0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True)])
def test_gpus_are_used_where_every_worker_gets_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int, used: bool
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, **({"GPU": float(gpus)} if gpus else {})})
    assert _has_gpus(workers) is used


def _start(cluster: LocalCluster, out: Path, *options: str) -> "subprocess.Popen[str]":
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", PROGRAM, str(out), "--how", "ray", *options]
    return subprocess.Popen(
        command, env=cluster.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip


def _finish(cluster: LocalCluster, out: Path, *options: str) -> dict[str, Any]:
    process = _start(cluster, out, *options)
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, said[-4000:]
    weights: dict[str, Any] = load_file(out / "weights.safetensors")
    return weights


@pytest.mark.cluster
def test_ray_workers_train_on_after_two_were_killed_and_the_driver_too(cluster: LocalCluster, tmp_path: Path) -> None:
    undisturbed = _finish(cluster, tmp_path / "undisturbed", "--workers", "2")

    registry = Registry()
    run = registry.start_run("launch", "on Ray", {})
    disturbed = tmp_path / "disturbed"
    options = ["--workers", "2", "--checkpoint-every-s", "0.05", "--pause-s", "0.05", "--run-id", run.run_id]
    driver = _start(cluster, disturbed, *options, "--kill", "1:6,0:7")
    try:
        # Each attempt comes to its first step, or its recovery would have no time.
        _wait_for(lambda: len(list(disturbed.glob("storage/*/events/*-first_step.json"))) == 3, within_s=200)
        driver.kill()
    finally:
        driver.kill()
        driver.communicate()
    assert _same(_finish(cluster, disturbed, *options), undisturbed)
    _require_every_row_once_an_epoch(disturbed)

    first, second, third = _recoveries(disturbed)
    assert "worker 1" in first["cause"]
    assert "worker 0" in second["cause"]
    # Ray's controller may outlive the driver for a moment, and say that the workers went.
    assert third["cause"] == "killed: it ended without a word" or "worker" in third["cause"]
    assert all(recovery["seconds_to_next_step"] > 0 for recovery in (first, second, third))
    history = MlflowClient(registry.tracking_uri).get_metric_history(run.run_id, "val_loss")
    assert {entry.step for entry in history} == {1, 2, 3}


@pytest.mark.cluster
def test_a_training_on_ray_that_is_told_to_end_keeps_its_last_step(cluster: LocalCluster, tmp_path: Path) -> None:
    driver = _start(cluster, tmp_path, "--pause-s", "0.2")
    try:
        _wait_for(lambda: list(tmp_path.glob("storage/*/mark")), within_s=120)
        driver.send_signal(signal.SIGTERM)
        said, _ = driver.communicate(timeout=90)
    finally:
        driver.kill()
    assert "Interrupted: stopped between two steps, as it was asked to" in said
    _finish(cluster, tmp_path)
    (recovery,) = _recoveries(tmp_path)
    assert recovery["steps_redone"] == 0
    _require_every_row_once_an_epoch(tmp_path)
