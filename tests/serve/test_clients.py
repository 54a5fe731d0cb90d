"""Clients as they come from PyPI, each in an environment of its own, against a live endpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.deployed import deploy, publish_champion
from tests.tiny import SURE, UNSURE, logits

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

MODEL = "tiny_clients"
CLIENTS = Path(__file__).with_name("clients")
# What was tested together; they want other versions of protobuf, numpy and pydantic than the server has.
PINS = {
    "tritonclient": ("tritonclient[http,grpc]==2.73.0",),
    "kserve": ("kserve==0.21.0",),
    "mlserver": ("mlserver==1.7.1",),
}
ROWS = np.stack([SURE, UNSURE])
CASCADE = np.concatenate([logits(ROWS[:1], 0.0), logits(ROWS[1:], 100.0)])
TEACHER = logits(ROWS, 100.0)


@pytest.fixture(scope="module")
def environment_of(tmp_path_factory):
    """The folder of a client's environment, made on first use; skips where it cannot be."""
    made = {}

    def make(client):
        if client not in made:
            folder = tmp_path_factory.mktemp(client)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
            command = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *PINS[client]]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            made[client] = folder if done.returncode == 0 else None
            if made[client] is None:
                print(done.stderr, file=sys.stderr)
        if made[client] is None:
            pytest.skip(f"{' '.join(PINS[client])} cannot be installed here")
        return made[client]

    return make


@pytest.fixture(scope="module")
def served(cluster, serve_port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    publish_champion(cluster, folder, MODEL)
    args = {"model": MODEL, "deadline_ms": 5_000, "releases": [{"ref": "champion"}]}
    return deploy(cluster, folder, serve_port, MODEL, args)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The rows as numpy saves them, and the first of them as an image file."""
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "rows.npy", ROWS)
    Image.fromarray(ROWS[0, 0]).save(folder / "row.png")
    return folder / "rows.npy", folder / "row.png"


def run(command, **options):
    """Standard output of a client's process, which sees nothing of the server's environment."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    # Each of these clients would ask an HTTP proxy of the environment for loopback addresses too.
    options = {"env": {**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}, **options}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **options)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def run_script(environment, script, *arguments):
    return json.loads(run([environment / "bin" / "python", CLIENTS / script, *map(str, arguments)]).splitlines()[-1])


def assert_answers(told):
    np.testing.assert_allclose(told["binary"], CASCADE, atol=1e-4)
    assert told["live"] and told["ready"] and told["id"] == "7"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient_is_served(served, environment_of, files, protocol):
    address = served.url if protocol == "http" else served.grpc_address
    told = run_script(environment_of("tritonclient"), f"triton_{protocol}.py", address, MODEL, *files)
    assert_answers(told)
    np.testing.assert_allclose(told["json"], TEACHER, atol=1e-4)
    np.testing.assert_allclose(told["payload"], CASCADE[:1], atol=1e-4)
    assert told["variant"] == "teacher,teacher"
    assert told["server"]["name"] == "tandem" and "binary_tensor_data" in told["server"]["extensions"]
    assert [(i["name"], i["datatype"]) for i in told["metadata"]["inputs"]] == [("image", "UINT8")]
    assert told["config"]["input"][0]["data_type"] == "TYPE_UINT8"
    assert told["statistics"]["model_stats"][0]["name"] == MODEL
    assert "model 'nobody' is not served here" in told["refused"]


def test_kserve_is_served(served, environment_of, files):
    told = run_script(environment_of("kserve"), "kserve_both.py", served.url, served.grpc_address, MODEL, files[0])
    assert_answers(told)
    for form in ("json", "grpc_raw", "grpc_typed"):
        np.testing.assert_allclose(told[form], CASCADE, atol=1e-4)


def test_mlserver_infers_in_binary(served, environment_of, tmp_path):
    """Its command reads requests from a file, a line each, and writes the answers to another."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(ROWS.shape), "data": ROWS.ravel().tolist()}
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    requests.write_text(json.dumps({"id": "7", "inputs": [tensor]}) + "\n")
    command = [environment_of("mlserver") / "bin" / "mlserver", "infer", "--binary-data"]
    address = served.url.removeprefix("http://")
    run([*command, "-u", address, "-m", MODEL, "-i", str(requests), "-o", str(answers)], cwd=tmp_path)
    answer = json.loads(answers.read_text())
    (output,) = answer["outputs"]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), CASCADE, atol=1e-4)
