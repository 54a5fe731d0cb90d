"""A training in this machine's own processes: undisturbed, killed, asked to stop, and with other numbers of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.checkpoint.sample_log import surviving_rows
from training.task import Source, load_task

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PROGRAM = "training.benchmark.trainee"


def _command(out: Path, *options: str, processes: int = 1) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", PROGRAM, str(out), *options]
    # A port of its own each time: several of these may run on a machine.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *torchrun, "-m", PROGRAM, str(out), *options]


def _run(out: Path, *options: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    command = _command(out, *options, processes=processes)
    return subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


def _finish(out: Path, *options: str, processes: int = 1) -> dict[str, Tensor]:
    done = _run(out, *options, processes=processes)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    weights: dict[str, Tensor] = load_file(out / "weights.safetensors")
    return weights


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _recoveries(out: Path) -> list[dict[str, Any]]:
    recoveries: list[dict[str, Any]] = json.loads((out / "recoveries.json").read_text())
    return recoveries


def _require_every_row_once_an_epoch(out: Path) -> None:
    (samples,) = out.glob("storage/*/samples")
    count = len(load_task("digits", Source()).splits["train"])
    rows = surviving_rows(samples)
    assert list(rows) == [1, 2, 3]
    for epoch, ids in rows.items():
        assert (np.sort(ids) == np.arange(count)).all(), f"epoch {epoch}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return _finish(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return _finish(tmp_path_factory.mktemp("together"), processes=2)


def test_a_killed_training_goes_on_and_ends_as_the_undisturbed_one(alone: dict[str, Tensor], tmp_path: Path) -> None:
    options = ["--checkpoint-every-s", "0.05", "--pause-s", "0.08", "--kill", "0:9,0:5"]
    for _ in range(2):
        assert _run(tmp_path, *options).returncode == -signal.SIGKILL
    assert _same(_finish(tmp_path, *options), alone)
    _require_every_row_once_an_epoch(tmp_path)
    first, second = _recoveries(tmp_path)
    assert first["cause"] == "killed: it ended without a word"
    # Written at least every 0.05 s, by steps of 0.08 s: a few steps were lost, and not the whole training.
    assert 0 <= first["steps_redone"] <= 8
    assert (first["epoch"], first["step"]) > (1, 0)
    assert second["seconds_to_next_step"] > 0


def test_a_killed_worker_of_torchrun_takes_the_group_back_to_the_last_checkpoint(
    together: dict[str, Tensor], tmp_path: Path
) -> None:
    options = ["--checkpoint-every-s", "0.05", "--pause-s", "0.08", "--kill", "1:8"]
    assert _run(tmp_path, *options, processes=2).returncode != 0
    assert _same(_finish(tmp_path, *options, processes=2), together)
    _require_every_row_once_an_epoch(tmp_path)


def test_a_model_that_is_cut_among_workers_goes_on_at_the_last_epoch(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = _finish(whole, "--parallel", "sharded", processes=2)
    options = ["--parallel", "sharded", "--kill", "1:25"]
    assert _run(killed, *options, processes=2).returncode != 0
    assert _same(_finish(killed, *options, processes=2), undisturbed)
    _require_every_row_once_an_epoch(killed)
    (recovery,) = _recoveries(killed)
    assert (recovery["epoch"], recovery["step"]) == (2, 0)
    newest = max(killed.glob("storage/*/checkpoints/epoch-*"))
    assert sorted(path.name for path in newest.glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]


def test_a_training_goes_from_two_workers_to_one_and_back(tmp_path: Path) -> None:
    options = ["--checkpoint-every-s", "0.05", "--pause-s", "0.08", "--kill", "1:8,0:7"]
    assert _run(tmp_path, *options, processes=2).returncode != 0
    assert _run(tmp_path, *options).returncode == -signal.SIGKILL
    _finish(tmp_path, *options, processes=2)
    _require_every_row_once_an_epoch(tmp_path)
    assert [recovery["world_size"] for recovery in _recoveries(tmp_path)] == [1, 2]
    records = json.loads((tmp_path / "records.json").read_text())
    assert records[-1]["val_accuracy"] > 0.6


def test_a_training_that_is_told_to_end_keeps_its_last_step(alone: dict[str, Tensor], tmp_path: Path) -> None:
    process = subprocess.Popen(
        _command(tmp_path, "--pause-s", "0.2"),
        env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        _wait_for(lambda: list(tmp_path.glob("storage/*/mark")))
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "Interrupted: stopped at epoch 1, step" in said
    assert _same(_finish(tmp_path), alone)
    (recovery,) = _recoveries(tmp_path)
    assert recovery["cause"] == "stopped between two steps, as it was asked to"
    assert recovery["steps_redone"] == 0
    _require_every_row_once_an_epoch(tmp_path)


def test_a_torn_checkpoint_is_passed_over_and_told(alone: dict[str, Tensor], tmp_path: Path) -> None:
    options = ["--checkpoint-every-s", "0.05", "--pause-s", "0.03", "--kill", "0:9", "--kill-after", "2"]
    assert _run(tmp_path, *options).returncode == -signal.SIGKILL
    # The kill may have left one more behind, which was never finished.
    *_, newest = sorted(path.parent for path in tmp_path.glob("storage/*/checkpoints/epoch-*/manifest.json"))
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-100])
    assert _same(_finish(tmp_path, *options), alone)
    (recovery,) = _recoveries(tmp_path)
    assert newest.name in recovery["rejected"]
    assert all("has sha256" in why or "was never finished" in why for why in recovery["rejected"].values())


def test_the_training_that_was_overtaken_ends(tmp_path: Path) -> None:
    slow = subprocess.Popen(
        _command(tmp_path, "--checkpoint-every-s", "0.05", "--pause-s", "1"),
        env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        _wait_for(lambda: list(tmp_path.glob("storage/*/mark")))
        _finish(tmp_path, "--checkpoint-every-s", "0.05")
        said, _ = slow.communicate(timeout=30)
    finally:
        slow.kill()
    assert slow.returncode != 0
    assert "attempt 1 of the training in" in said
    assert "was overtaken by attempt 2" in said


def _wait_for(there: Any, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not there():
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.05)
