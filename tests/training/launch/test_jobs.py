"""A training as a job on the cluster that also serves, by the command that the documentation gives."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apps.launcher.local import ROOT, LocalCluster
from loadtests.endpoint import model_metadata
from loadtests.payloads import RequestOptions, infer_request
from tests.serve.deployed import Deployed, deploy, publish_champion
from tests.tiny import SURE
from training.registry import Registry

MODEL = "beside"
TRAINING = ["python", "-m", "training.train", "tests.toys:image_recipe", "--set", "epochs=2", "--set", "seed=11"]


@pytest.fixture(scope="module")
def served(cluster: LocalCluster, serve_port: int, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    folder = tmp_path_factory.mktemp(MODEL)
    publish_champion(cluster, folder, MODEL)
    teacher = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.2}}
    return deploy(cluster, folder, serve_port, MODEL, {"model": MODEL}, {"Teacher": teacher})


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_training_is_submitted_as_a_job_while_the_cluster_serves(
    cluster: LocalCluster, served: Deployed, tmp_path: Path
) -> None:
    ray = str(Path(sys.executable).with_name("ray"))
    command = [*TRAINING, "--storage", str(tmp_path / "storage"), "--cpus", "0.5"]
    log = tmp_path / "log"
    request = infer_request(model_metadata(served.url, MODEL), np.stack([SURE]), (0,), RequestOptions())
    answered = []
    with log.open("w") as stream, served.client() as client:
        job = subprocess.Popen(
            [ray, "job", "submit", "--working-dir", ".", "--", *command],
            env=cluster.environment, cwd=ROOT, stdout=stream, stderr=stream,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 240
            while job.poll() is None:
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                answered.append(client.post(request.path, content=request.body, headers=request.headers).status_code)
                time.sleep(0.2)
        finally:
            job.kill()
            job.wait()
    said = log.read_text()
    assert job.returncode == 0, said[-3000:]
    assert "ploading package gcs://" in said  # the folder, for the driver and for the workers
    assert "epoch   2/2" in said
    assert f"registered {Registry().resolve('toy_images@candidate').reference}" in said
    assert len(answered) > 10
    assert set(answered) == {200}
