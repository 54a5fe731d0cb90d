"""The whole way on published data: train, build, serve the same configuration with the model's name changed.

These take minutes each; they skip where the data or a network is missing. Trainings are cut short, so what is held is
the way, and bounds that a shorter training reaches; the README has the full figures and the commands that made them.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.launcher.local import ROOT, LocalCluster
from optimization.release import load_release
from optimization.runners.open import open_runner
from tests.serve.deployed import Deployed, deploy
from tests.shared_data import data_folder
from training.artifact import load_artifact
from training.registry import Registry
from training.task import Source, load_task

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

# Run by a Python of its own, against an endpoint named on its command line.
TRITON_CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http

url, model, inputs = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
client = http.InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
metadata = client.get_model_metadata(model)
assert metadata["inputs"][0]["datatype"] == "UINT8", metadata
assert client.get_model_config(model)["name"] == model
answers = []
for rows in (1, 8):
    tensor = http.InferInput(metadata["inputs"][0]["name"], [rows, *inputs.shape[1:]], "UINT8")
    tensor.set_data_from_numpy(inputs[:rows], binary_data=True)
    wanted = [http.InferRequestedOutput("logits", binary_data=True)]
    answer = client.infer(model, [tensor], outputs=wanted, parameters={"mode": "student"})
    answers.append(answer.as_numpy("logits").tolist())
print(json.dumps(answers))
"""


def run(cluster: LocalCluster, *command: str, statuses: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=cluster.environment, capture_output=True, text=True
    )
    assert done.returncode in statuses, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def make(cluster: LocalCluster, folder: Path, model: str, epochs: int) -> dict[str, Any]:
    """Train and build `model`; returns the comparison of the Release, whether or not it passed its gate."""
    options = [f"--data-dir={data_folder()}", f"--storage={folder / 'train'}", "--threads=2", f"--set=epochs={epochs}"]
    run(cluster, "training.train", model, *options)
    build = ["optimization.build", f"{model}@candidate", f"--cache-dir={cluster.cache_dir}", *options]
    run(cluster, *build, statuses=(0, 1))
    registry = Registry(cluster.tracking_uri)
    version = registry.resolve(f"{model}.endpoint@candidate")
    comparison: dict[str, Any] = json.loads(registry.read_artifact(version.run_id, "comparison.json"))
    return comparison


def serve(cluster: LocalCluster, folder: Path, port: int, model: str) -> Deployed:
    """The one application of this cluster, with the model's name changed."""
    return deploy(cluster, folder, port, "tandem", {"model": model, "releases": [{"ref": "candidate"}]})


def rows_of(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["variant"]: row for row in comparison["rows"]}


@pytest.fixture(scope="module")
def fashion(cluster: LocalCluster, serve_port: int, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    folder = tmp_path_factory.mktemp("fashion")
    rows = rows_of(make(cluster, folder, "fashion_mnist", epochs=4))
    assert rows["teacher-fp32"]["accuracy"] >= 0.90
    assert rows["student-int8"]["size_bytes"] * 3 <= rows["teacher-fp32"]["size_bytes"]
    return serve(cluster, folder, serve_port, "fashion_mnist")


def test_an_unmodified_tritonclient_agrees_with_the_runner(
    fashion: Deployed, cluster: LocalCluster, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    installed = subprocess.run(
        [str(venv / "bin" / "pip"), "install", "-q", "tritonclient[http]"], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"tritonclient cannot be installed: {installed.stderr.strip()[-200:]}")
    inputs = load_task("fashion_mnist", Source(data_folder())).splits["gate"].inputs[:8]
    np.save(tmp_path / "inputs.npy", inputs)
    (tmp_path / "client.py").write_text(TRITON_CLIENT)
    arguments = [fashion.url.removeprefix("http://"), "fashion_mnist", str(tmp_path / "inputs.npy")]
    done = subprocess.run(
        [str(venv / "bin" / "python"), str(tmp_path / "client.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    registry = Registry(cluster.tracking_uri)
    release = load_release(registry.fetch(registry.resolve("fashion_mnist.endpoint@candidate"), cluster.cache_dir))
    student = registry.resolve(f"{release.student.name}@{release.student.number}")
    runner = open_runner(load_artifact(registry.fetch(student, cluster.cache_dir)))
    for answer in json.loads(done.stdout):
        np.testing.assert_allclose(np.array(answer, np.float32), runner(inputs[: len(answer)]), atol=1e-5)


def test_ag_news_is_learned_and_a_text_is_answered(
    cluster: LocalCluster, serve_port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ag_news")
    rows = rows_of(make(cluster, folder, "ag_news", epochs=3))
    assert rows["teacher-fp32"]["accuracy"] >= 0.87
    served = serve(cluster, folder, serve_port, "ag_news")
    with served.client() as client:
        answer = client.post(
            "/v1/models/ag_news:predict", json={"text": "The striker scored twice as the visitors won the cup final"}
        )
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "Sports"
