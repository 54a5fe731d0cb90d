"""A training on Ray Train's workers: killed, short of a node, without its driver, and asked to stop."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from apps.launcher.local import ROOT, LocalCluster
from tests.training.launch.test_here import _recoveries, _require_every_row_once_an_epoch, _same, _wait_for
from training.checkpoint.store import SupersededError
from training.launch.job import Interrupted
from training.launch.on_ray import _fit, _ran_out_of_memory, _require_end
from training.launch.run_folder import RunFolder
from training.loop.training import TrainingError
from training.loop.worker import Worker
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


def _folder(tmp_path: Path, owner: str, **last: Any) -> RunFolder:
    folder = RunFolder(str(tmp_path))
    folder.begin_attempt(Worker(), owner)
    if last:
        folder.ledger.add(**{"attempt": 1, **last})
    return folder


def test_what_workers_ended_with_is_what_the_command_ends_with(tmp_path: Path) -> None:
    _require_end(_folder(tmp_path / "finished", "one", kind="finished"), "one")
    with pytest.raises(Interrupted, match="as it was asked to; the same command goes on"):
        _require_end(_folder(tmp_path / "stopped", "one", kind="stopped", cause="as it was asked to"), "one")
    with pytest.raises(TrainingError, match=r"^not finite$"):
        _require_end(_folder(tmp_path / "failed", "one", kind="failed", cause="not finite"), "one")


def test_what_others_ended_with_is_not_what_the_command_ends_with(tmp_path: Path) -> None:
    for name, folder in (
        ("other", _folder(tmp_path / "other", "other", kind="finished")),
        ("none", RunFolder(str(tmp_path / "none"))),
    ):
        with pytest.raises(SupersededError, match=f"the training in .*{name}.* was overtaken"):
            _require_end(folder, "one")
    late = _folder(tmp_path / "late", "one", kind="failed", attempt=7, cause="of another attempt")
    _require_end(late, "one")


def test_memory_that_one_worker_lacks_is_known_through_all_that_tells_of_it() -> None:
    """The others wait for it, so that all have to start again."""

    def told(root: Exception) -> TrainingError:
        inner = TrainingError("7 rows a worker do not fit its memory")
        inner.__cause__ = root
        outer = TrainingError("...; the state before it is not kept yet")
        outer.__cause__ = inner
        return outer

    assert _ran_out_of_memory(told(torch.OutOfMemoryError()))
    assert not _ran_out_of_memory(told(ValueError()))


def _start(cluster: LocalCluster, out: Path, *options: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", PROGRAM, str(out), "--how", "ray", *options]
    return subprocess.Popen(
        command, env=cluster.environment, cwd=ROOT, stdout=stdout, stderr=subprocess.STDOUT, text=True
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


@pytest.mark.timeout(900)
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


@pytest.mark.timeout(900)
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
    assert "step/s" not in said, "no bar in a log"
    _finish(cluster, tmp_path)
    (recovery,) = _recoveries(tmp_path)
    assert recovery["steps_redone"] == 0
    _require_every_row_once_an_epoch(tmp_path)


def _on_a_terminal(cluster: LocalCluster, out: Path, *options: str) -> str:
    """All that the command writes where its output is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = _start(cluster, out, *options, stdout=theirs)
    os.close(theirs)
    said = b""
    try:
        with contextlib.suppress(OSError):  # it is gone
            while part := os.read(ours, 4096):
                said += part
        assert process.wait(60) == 0, said[-4000:]
    finally:
        process.kill()
        os.close(ours)
    return said.decode()


@pytest.mark.timeout(600)
@pytest.mark.cluster
def test_how_far_workers_are_is_drawn_where_the_command_has_a_terminal(cluster: LocalCluster, tmp_path: Path) -> None:
    said = _on_a_terminal(cluster, tmp_path / "terminal", "--workers", "2", "--pause-s", "0.1")
    drawn = re.findall(r"epoch (\d)/3: +\d+%.* loss \d\.\d+, [\d,]+ samples/s\]", said)
    assert set(drawn) == {"1", "2", "3"}
    # What is printed meanwhile is printed once, on lines of its own.
    lines = re.findall(r"^.*epoch +(\d)/3  loss .* left(?:\x1b\[0m)?\r$", said, re.MULTILINE)
    assert lines == ["1", "2", "3"]


@pytest.mark.timeout(600)
@pytest.mark.cluster
def test_of_the_same_command_started_twice_the_later_one_trains(cluster: LocalCluster, tmp_path: Path) -> None:
    """And the earlier one does not overtake it in its turn when Ray Train would start its workers again."""
    options = ["--checkpoint-every-s", "0.05"]
    slow = _start(cluster, tmp_path, *options, "--pause-s", "1")
    try:
        _wait_for(lambda: list(tmp_path.glob("storage/*/checkpoints/*/manifest.json")), within_s=120)
        _finish(cluster, tmp_path, *options)
        said, _ = slow.communicate(timeout=120)
    finally:
        slow.kill()
    assert slow.returncode != 0
    assert "was overtaken: the same command runs elsewhere" in said
    owners = [path.read_text() for path in sorted(tmp_path.glob("storage/*/checkpoints/attempts/*"))]
    assert len(owners) == len(set(owners)) == 2
    (recovery,) = _recoveries(tmp_path)
    assert "was overtaken by attempt 2" in recovery["cause"] or recovery["cause"].startswith("killed")
    _require_every_row_once_an_epoch(tmp_path)
