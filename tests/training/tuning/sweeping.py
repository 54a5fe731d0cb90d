"""A sweep in a process of its own, on a Ray cluster of its own with two CPUs, by the command that a user runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from training.tuning.ledger import Ledger, Trial

ROOT = Path(__file__).resolve().parents[3]
# Starts the cluster that the command then finds initialized; it ends with its process, however that ends.
PROGRAM = """
import os, sys
for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_LOG_TO_DRIVER", "0")):
    os.environ[name] = value
import ray
ray.init(
    address="local", num_cpus=2, _node_ip_address="127.0.0.1", dashboard_host="127.0.0.1",
    object_store_memory=150 * 2**20, configure_logging=False,
)
import training.tune
training.tune.main()
"""


class Sweep:
    """`python -m training.tune ...` on two CPUs, and what it left behind."""

    def __init__(self, storage: Path, tracking_uri: str, name: str, *arguments: str) -> None:
        self.name, self.storage, self.tracking_uri = name, storage, tracking_uri
        self._arguments = [*arguments, "--name", name, "--storage", str(storage)]
        self.client = MlflowClient(tracking_uri, tracking_uri)
        self.out = storage / f"{name}.out"
        storage.mkdir(parents=True, exist_ok=True)

    def start(self, *more: str) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"MLFLOW_TRACKING_URI": self.tracking_uri, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, "-c", PROGRAM, *self._arguments, *more]
        with self.out.open("wb") as out:
            return subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def run(self, *more: str, timeout_s: float = 240) -> int:
        process = self.start(*more)
        try:
            return process.wait(timeout_s)
        finally:
            process.kill()

    def kill_when(self, reached: Callable[[Mapping[int, Trial]], bool], timeout_s: float = 180) -> None:
        """SIGKILL to the process that searches, as soon as the ledger says so."""
        process = self.start()
        deadline = time.monotonic() + timeout_s
        try:
            while not reached(self.trials()):
                assert process.poll() is None, f"it ended before it could be killed: {self.said()}"
                assert time.monotonic() < deadline, f"too slow to be killed in the middle: {self.said()}"
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def trials(self) -> dict[int, Trial]:
        return Ledger(self.storage / self.name).trials()

    @property
    def parent(self) -> Run:
        return self.client.get_run(Ledger(self.storage / self.name).run_id)

    def children(self) -> dict[int, Run]:
        found = self.client.search_runs(
            [self.parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{self.parent.info.run_id}'"
        )
        return {int(run.data.tags["tandem.trial"]): run for run in found}
