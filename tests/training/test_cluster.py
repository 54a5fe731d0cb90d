"""What a command asks of the cluster that it works on."""

import pytest

from training.cluster import has_gpus


@pytest.mark.parametrize(("gpus", "workers", "used"), [(0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True)])
def test_gpus_are_used_where_every_worker_gets_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int, used: bool
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, **({"GPU": float(gpus)} if gpus else {})})
    assert has_gpus(workers) is used
