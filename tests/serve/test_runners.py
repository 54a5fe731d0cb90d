"""The backends that `runners` names in serve_config.yaml, as a cluster without a GPU takes them."""

import httpx
import numpy as np
import pytest

from apps.launcher.deploy import DeployError
from loadtests.metrics import discover, fetch
from tests.serve.deployed import deploy, publish_champion, until
from tests.tiny import SURE, UNSURE, logits

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATH = "/v2/models/ran/infer"


def _args(*, may_fall_back):
    runners = {
        "teacher": {"backend": "onnxruntime-cuda", "allow_fallback": may_fall_back},
        "student": {"backend": "onnxruntime-cpu"},
    }
    return {"model": "ran", "deadline_ms": 2000, "student_placement": "deployment", "runners": runners}


def test_a_backend_that_is_missing_runs_on_the_cpu_where_that_is_allowed_and_is_refused_by_name_elsewhere(
    cluster, serve_port, tmp_path
):
    publish_champion(cluster, tmp_path / "ran", "ran")
    served = deploy(cluster, tmp_path, serve_port, "ran", _args(may_fall_back=True))
    rows = np.stack([SURE, UNSURE])
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    with served.client() as client:
        answer = client.post(PATH, json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["parameters"]["variant"] == "student,teacher"
        found = np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(2, 3)
    np.testing.assert_allclose(found, np.concatenate([logits(rows[:1], 0.0), logits(rows[1:], 100.0)]), atol=1e-5)

    urls = discover(cluster.ray.temp_dir / "prom_metrics_service_discovery.json")

    def devices():
        told = [dict(labels) for name, labels in fetch(urls).samples if name == "ray_tandem_runner_info"]
        return {(labels["role"], labels["device"]) for labels in told if labels.get("model") == "ran"}

    until(lambda: devices() == {("teacher", "cpu"), ("student", "cpu")}, 60, "the metrics tell what really runs")

    before = {replica["pid"] for replica in served.replicas("Teacher")}
    with pytest.raises(DeployError, match=r"is to run by onnxruntime-cuda, which this machine cannot do"):
        deploy(cluster, tmp_path, serve_port, "ran", _args(may_fall_back=False))
    # What served before goes on serving.
    assert {replica["pid"] for replica in served.replicas("Teacher")} == before
    assert httpx.get(f"{served.url}/v2/health/ready", trust_env=False, timeout=30).status_code == 200
