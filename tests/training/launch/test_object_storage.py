"""A training on Ray whose checkpoints lie on S3, with a cluster of its own, which inherits the keys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apps.launcher.local import ROOT
from tests.training.s3_server import make_bucket
from training.checkpoint.folder import Folder


@pytest.mark.slow
def test_workers_of_ray_keep_their_training_on_s3_and_leave_nothing_else_there(tmp_path: Path, s3: str) -> None:
    make_bucket("onray")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "training.benchmark.trainee", str(tmp_path), "--how", "ray", "--epochs", "1",
         "--storage", "s3://onray/trainings"],
        cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "weights.safetensors").exists()
    storage = Folder("s3://onray/trainings")
    (training,) = (name for name in storage.names() if name != ".ray-train")
    assert [name for name in storage.names(f"{training}/checkpoints") if name.startswith("epoch-00002")]
    assert storage.names(".ray-train") == []
