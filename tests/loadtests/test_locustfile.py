import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def locust(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "-u", "12", "-r", "12"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-t", "2s", "--only-summary", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_run_within_the_objective_exits_0_and_sends_every_kind_of_request(endpoint: Any) -> None:
    done = locust("--host", endpoint.url, "--p95-ms", "1000")
    assert done.returncode == 0, done.stderr
    for name in ("infer, binary, 1 row", "infer, binary, 8 rows", "infer, JSON, 1 row"):
        assert name in done.stderr + done.stdout
    assert {len(head["inputs"][0].get("data", [])) for head in endpoint.heads} == {0, 64}
    assert {head["inputs"][0]["shape"][0] for head in endpoint.heads} == {1, 8}
    assert set(endpoint.predicted) <= {"image/png", "multipart/form-data"} and endpoint.predicted


def test_run_beyond_the_objective_exits_1(endpoint: Any) -> None:
    endpoint.delay_s = 0.1
    done = locust("--host", endpoint.url, "--p95-ms", "50")
    assert done.returncode == 1
    assert "Objective missed" in done.stderr


def test_wrong_answers_exit_1_though_they_are_quick(endpoint: Any) -> None:
    endpoint.output_shape = [1, 5, 2]
    done = locust("--host", endpoint.url, "--p95-ms", "5000")
    assert done.returncode == 1
    assert "has shape [1, 5, 2]" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("host", "message"), [("http://192.0.2.7", "--allow-remote"), ("http://127.0.0.1:9", "is it running?")]
)
def test_endpoint_that_cannot_be_loaded_exits_2(host: str, message: str) -> None:
    done = locust("--host", host)
    assert done.returncode == 2
    assert message in done.stderr


def test_shape_raises_the_users_and_ends_by_itself(endpoint: Any, tmp_path: Path) -> None:
    prefix = tmp_path / "run"
    done = locust(
        *("--host", endpoint.url, "--p95-ms", "1000", "--shape", "step", "--base-users", "2", "-t", "6s"),
        *("--csv", str(prefix), "--csv-full-history"),
    )
    assert done.returncode == 0, done.stderr
    assert "Shape test completed" in done.stderr
    lines = (tmp_path / "run_stats_history.csv").read_text().splitlines()[1:]
    users = [int(line.split(",")[1]) for line in lines if ",Aggregated," in line]
    assert max(users) == 12
    assert 2 in users[users.index(12) :] and 2 in users[: users.index(12)]


def test_shape_without_a_duration_exits_2(endpoint: Any) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "-u", "3"]
    done = subprocess.run(
        [*command, "--host", endpoint.url, "--shape", "spike"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "give -u and -t" in done.stderr
