"""The steps of `make up`, each one a command that a person could type, on a cluster that is already starting."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from apps.launcher.champion import Champion
from apps.launcher.deploy import (
    GRPC_PORT_OFFSET,
    DeployError,
    deploy_command,
    grpc_port,
    wait_until_running,
    write_config,
)
from apps.launcher.local import ROOT, LocalCluster
from apps.launcher.ports import LOOPBACK, find_holder, is_free
from apps.launcher.process import ProcessError
from apps.launcher.stages import Stages
from apps.launcher.summary import print_addresses, sample_request, send
from optimization.table import comparison_table
from training.address import absolute_location

_DEPLOY_TIMEOUT_S = 120.0
_LOAD_RATE, _LOAD_S, _LOAD_P95_MS = 20, 10, 50


@dataclass(frozen=True)
class Commands:
    """The programs behind the steps: data, so that a test can put small ones in their place."""

    train: Sequence[str]
    build: Sequence[str]
    champion: Sequence[str]
    load_test: Sequence[str]
    save_inputs: Sequence[str]

    @classmethod
    def of(cls, model: str, state_dir: Path, data_dir: str | Path | None = None) -> "Commands":
        def module(name: str, *arguments: str) -> list[str]:
            return [sys.executable, "-m", name, *arguments]

        # The programs run in the repository's folder, and no shell has opened a ~ inside quotes.
        data = [f"--data-dir={absolute_location(str(data_dir))}"] if data_dir is not None else []
        folders = [f"--storage={state_dir / 'train'}", *data]
        return cls(
            train=module("training.train", model, *folders),
            build=module("optimization.build", f"{model}@candidate", f"--cache-dir={state_dir / 'cache'}", *folders),
            champion=module("apps.launcher.champion", model),
            load_test=module(
                "loadtests.slo",
                f"--model={model}",
                f"--rate={_LOAD_RATE}",
                f"--duration={_LOAD_S}",
                f"--p95-ms={_LOAD_P95_MS}",
            ),
            save_inputs=module("training.task", model, "--split=report", *data),
        )


@dataclass(frozen=True)
class Launch:
    """One endpoint on one cluster. Every step raises ProcessError or DeployError where it cannot be done."""

    cluster: LocalCluster
    stages: Stages
    commands: Commands
    model: str
    port: int
    config: Path = ROOT / "serve_config.yaml"
    # MLflow's client tries an address at which nobody answers for minutes.
    registry_timeout_s: float = 60.0

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start_cluster(self) -> Champion | None:
        """Wait for both servers; the registry is asked while Ray still starts."""
        with self.stages.stage("Start Ray and MLflow") as stage:
            self.cluster.start()
            stage.note("MLflow")
            self.cluster.wait_for_mlflow()
            stage.note("looking for registered models")
            champion = self.find_champion()
            stage.note("Ray")
            self.cluster.wait_for_ray()
        return champion

    def find_champion(self) -> Champion | None:
        log_path = self.cluster.log_dir / "champion.log"
        try:
            with log_path.open("w") as log:
                done = subprocess.run(
                    self.commands.champion,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self.cluster.environment,
                    cwd=ROOT,
                    text=True,
                    timeout=self.registry_timeout_s,
                    check=True,
                )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            late = isinstance(error, subprocess.TimeoutExpired)
            what = f"did not answer within {self.registry_timeout_s:.0f} s" if late else "could not be read"
            raise ProcessError(
                f"the registry at {self.cluster.tracking_uri} {what} ({log_path}):\n"
                f"{log_path.read_text()[-1000:].strip()}\n"
                "If that is not the MLflow you mean, change or unset MLFLOW_TRACKING_URI."
            ) from error
        return Champion.parse(done.stdout.strip().rpartition("\n")[2])

    def make_models(self) -> Champion:
        """Train the teacher and build the Release from it."""
        self._run(f"Train the {self.model} teacher", self.commands.train, "train.log")
        self._run("Distil, quantize, measure and register", self.commands.build, "build.log")
        self._save_inputs()
        champion = self.find_champion()
        if champion is None:
            raise ProcessError(
                f"the build registered no {self.model}.endpoint@champion: a gate refused it. What it measured is in "
                f"{self.cluster.log_dir / 'build.log'} and in MLflow's run"
            )
        return champion

    @property
    def inputs(self) -> Path:
        """Rows of the report split, which no model was made from: what the first prediction and the load test send."""
        return self.cluster.state_dir / "inputs" / f"{self.model}.npz"

    def _save_inputs(self) -> None:
        self.inputs.parent.mkdir(exist_ok=True)
        self._run("Save test inputs", [*self.commands.save_inputs, f"--save={self.inputs}"], "inputs.log")

    def deploy(self) -> None:
        for port in (self.port, self.port + GRPC_PORT_OFFSET):
            if not is_free(port):
                raise DeployError(f"port {port} has meanwhile been taken by {find_holder(port)}")
        config = self.cluster.state_dir / "serve_config.yaml"
        args = {"model": self.model, "cache_dir": str(self.cluster.cache_dir)}
        application = write_config(self.config, config, port=self.port, args=args)
        dashboard_url = self.cluster.ray.dashboard_url
        self._run("Deploy with serve deploy", deploy_command(config, dashboard_url), "deploy.log")
        with self.stages.stage("Wait for the replicas") as stage:
            wait_until_running(
                dashboard_url,
                application,
                self.endpoint_url,
                timeout_s=_DEPLOY_TIMEOUT_S,
                note=stage.note,
                grpc_port=grpc_port(config),
            )

    def predict(self) -> str:
        """Send the sample, show the answer, return the curl line that sends it again."""
        if not self.inputs.exists():
            self._save_inputs()
        request = sample_request(self.endpoint_url, self.model, self.inputs)
        with self.stages.stage("First prediction"):
            started = time.monotonic()
            answer = send(request)
            took_ms = 1000 * (time.monotonic() - started)
        best = answer["predictions"][0]
        said = f"  {best['label']} ({best['probability']:.1%}), by the {answer['variant']} in {took_ms:.0f} ms"
        self.stages.console.print(said, markup=False, highlight=False)
        return request.curl

    def load_test(self) -> None:
        """A missed objective is said, not fatal: the endpoint serves."""
        out = self.cluster.state_dir / "loadtest"
        report = out / "slo.json"
        report.unlink(missing_ok=True)  # an earlier launch's, which a load test that fails to run would leave
        title = f"Load test: {_LOAD_RATE} requests/s for {_LOAD_S} s"
        command = [*self.commands.load_test, f"--url={self.endpoint_url}", f"--inputs={self.inputs}", f"--out={out}"]
        status = self._run(title, command, "loadtest.log", check=False)
        console = self.stages.console
        if report.exists():
            console.print(f"  {_load_text(json.loads(report.read_text()))}", highlight=False)
            if status:
                console.print(f"[yellow]! p95 is to be at most {_LOAD_P95_MS} ms with no failure: missed[/yellow]")
        else:
            log = self.cluster.log_dir / "loadtest.log"
            console.print(f"[yellow]! the load test could not be run: see {escape(str(log))}[/yellow]")

    def show(self, champion: Champion, curl: str) -> None:
        console = self.stages.console
        console.print()
        if champion.comparison:
            console.print(comparison_table(champion.release, champion.comparison))
        addresses = {
            "Endpoint": f"{self.endpoint_url}/",
            "gRPC (V2)": f"{LOOPBACK}:{self.port + GRPC_PORT_OFFSET}",
            "OpenAPI": f"{self.endpoint_url}/docs",
            "Ray dashboard": self.cluster.ray.dashboard_url,
            "MLflow": self.cluster.tracking_uri,
            "Load test report": (self.cluster.state_dir / "loadtest" / "slo.html").as_uri(),
            "Logs": str(self.cluster.log_dir),
        }
        print_addresses(console, addresses, curl)
        for note in self.cluster.ray.front.notes:
            console.print(f"[yellow]! {escape(note)}[/yellow]", highlight=False, soft_wrap=True)

    def _run(self, title: str, command: Sequence[str], log_name: str, *, check: bool = True) -> int:
        return self.stages.run(
            title,
            command,
            env=self.cluster.environment,
            log_path=self.cluster.log_dir / log_name,
            cwd=ROOT,
            check=check,
        )


def _load_text(report: dict[str, Any]) -> str:
    summary = report["summary"]
    latency = summary["latency_ms"]
    # Absent (None) where so many requests failed that the quantile has no value.
    p50, p95 = (f"{latency[name]:.1f} ms" if latency[name] is not None else "never" for name in ("p50", "p95"))
    return f"{summary['requests']} requests, {summary['failed']} failed, p50 {p50}, p95 {p95}"
