"""A training as a job on the cluster that also serves, through Ray's Jobs API."""

import time

import pytest

from apps.launcher.local import ROOT, LocalCluster
from training.registry import Registry

COMMAND = "python -m training.train tests.toys:image_recipe --set epochs=2 --set seed=11 --storage {storage} --cpus 0.5"


@pytest.mark.cluster
def test_a_training_is_submitted_as_a_job_and_registers_what_it_trained(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(cluster.environment["RAY_API_SERVER_ADDRESS"])
    job = client.submit_job(
        entrypoint=COMMAND.format(storage=tmp_path_factory.mktemp("job")),
        # The tests are not uploaded with the product: the toy recipe is read where it lies.
        runtime_env={
            "env_vars": {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": cluster.environment["MLFLOW_TRACKING_URI"]}
        },
        entrypoint_num_cpus=0,
    )
    deadline = time.monotonic() + 180
    while not (status := client.get_job_status(job)).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(job)[-3000:]
        time.sleep(1)
    said = client.get_job_logs(job)
    assert status == JobStatus.SUCCEEDED, said[-3000:]
    assert "epoch   2/2" in said
    version = Registry().resolve("toy_images@candidate")
    assert f"registered {version.reference}" in said
