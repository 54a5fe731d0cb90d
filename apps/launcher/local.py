"""A Ray head and an MLflow server of our own on this machine, on loopback, beside whatever else runs here.

Every port is chosen free and given explicitly, the temporary folder is our own, and both end by process id: another
cluster on the same machine is neither joined nor touched.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from apps.launcher.front import FrontEnd
from apps.launcher.ports import LOOPBACK, reserve, reserve_block
from apps.launcher.process import Process, wait_for_url

ROOT = Path(__file__).resolve().parents[2]

# Fixed ports of a head, in the order in which `ray start` is given them; the workers' ports follow.
_PORT_FLAGS = (
    "--port",
    "--object-manager-port",
    "--node-manager-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
    "--ray-client-server-port",
)
# Prometheus ports of the autoscaler and the dashboard; the environment alone sets them.
_PORT_VARIABLES = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
_WORKER_PORTS = 150


def default_num_cpus() -> int:
    """Logical CPUs for a local cluster: at least 4.

    Ray's CPUs are admission tickets, not cores. A replica takes 0.3 of one, an update starts the new replicas before
    the old ones stop, and a training takes one a worker: with the two tickets of a two-core machine an update of the
    endpoint would wait for a training to end. One thread a process keeps the real cores from thrashing.
    """
    return max(4, os.cpu_count() or 1)


class RayHead:
    """One `ray start --head --block` with dashboard; `temp_dir` is short because sockets in it have length limits."""

    def __init__(
        self,
        log_dir: Path,
        env: Mapping[str, str],
        *,
        num_cpus: int,
        num_gpus: int | None = None,
        object_store_bytes: int = 150_000_000,
        dashboard_port: int = 8265,
    ) -> None:
        self._log_dir = log_dir
        # Not the system's TMPDIR: with macOS's long one the socket paths would not fit.
        self.temp_dir = Path(tempfile.mkdtemp(prefix="tandem-", dir="/tmp"))
        self.front = FrontEnd(self.temp_dir, env)
        fixed = (*_PORT_FLAGS, *_PORT_VARIABLES)
        block = reserve_block(len(fixed) + _WORKER_PORTS)
        dashboard = reserve(dashboard_port)
        self._reservations = (block, dashboard)
        first = block.first
        self.address = f"{LOOPBACK}:{first}"
        self.dashboard_url = f"http://{LOOPBACK}:{dashboard.first}"
        ports = {name: first + offset for offset, name in enumerate(fixed)}
        options: dict[str, object] = {
            **{flag: ports[flag] for flag in _PORT_FLAGS},
            "--min-worker-port": first + len(fixed),
            "--max-worker-port": first + len(fixed) + _WORKER_PORTS - 1,
            "--node-ip-address": LOOPBACK,
            "--dashboard-host": LOOPBACK,
            "--dashboard-port": dashboard.first,
            "--temp-dir": self.temp_dir,
            "--num-cpus": num_cpus,
            "--object-store-memory": object_store_bytes,
        }
        if num_gpus is not None:
            options["--num-gpus"] = num_gpus
        self.process = Process(
            "The Ray head",
            [
                tool("ray"),
                "start",
                "--head",
                "--block",
                "--log-style=record",
                *(f"{flag}={value}" for flag, value in options.items()),
            ],
            env={
                **env,
                **self.front.environment,
                **{name: str(ports[name]) for name in _PORT_VARIABLES},
                # Ray Train's actors ask the dashboard, and would look for one among all clusters of this machine.
                "RAY_API_SERVER_ADDRESS": self.dashboard_url,
                # Nobody waits for a drained node here: a stop should take a second, not Ray's half minute.
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            },
            log_path=log_dir / "ray-head.log",
            cwd=ROOT,
        )

    def wait_until_ready(self, timeout_s: float) -> None:
        wait_for_url(f"{self.dashboard_url}/api/serve/applications/", self.process, timeout_s=timeout_s)
        import httpx

        # Ray moves its dashboard where the usual port is taken: whoever answers there may be another cluster.
        found = httpx.get(f"{self.dashboard_url}/api/version", trust_env=False, timeout=10.0).json()["session_name"]
        if found != (self.temp_dir / "session_latest").resolve().name:
            raise self.process.describe_failure(
                f"lost its dashboard's address {self.dashboard_url} to another cluster ({found}) that started at the "
                "same moment; start again"
            )

    def stop(self) -> None:
        """End the head and all its processes; Ray's own logs move to `ray/` in the log folder."""
        self.process.stop()
        session_logs = self.temp_dir / "session_latest" / "logs"
        if session_logs.is_dir():
            kept = self._log_dir / "ray"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(session_logs, kept, symlinks=True, ignore_dangling_symlinks=True)
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        self.front.release()
        for reservation in self._reservations:
            reservation.release()


class MlflowServer:
    """One `mlflow server` on SQLite and an artifact folder, both under `state_dir`."""

    def __init__(self, state_dir: Path, log_dir: Path, env: Mapping[str, str], *, port: int = 5000) -> None:
        self._reservation = reserve(port)
        self.uri = f"http://{LOOPBACK}:{self._reservation.first}"
        artifacts = state_dir / "mlartifacts"
        artifacts.mkdir(parents=True, exist_ok=True)
        self.process = Process(
            "The MLflow server",
            [
                *(tool("mlflow"), "server", f"--host={LOOPBACK}", f"--port={self._reservation.first}", "--workers=1"),
                f"--backend-store-uri=sqlite:///{state_dir / 'mlflow.db'}",
                f"--artifacts-destination={artifacts}",
            ],
            # Its job runner would keep three more processes for features that are not used here.
            env={**env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            log_path=log_dir / "mlflow.log",
            cwd=state_dir,
        )

    def wait_until_ready(self, timeout_s: float) -> None:
        wait_for_url(f"{self.uri}/health", self.process, timeout_s=timeout_s)

    def stop(self) -> None:
        """End the server and all its processes."""
        self.process.stop()
        self._reservation.release()


class LocalCluster:
    """A Ray head, and an MLflow server unless `tracking_uri` names one that is there.

    As a context manager it is ready inside the block. State (`mlflow.db`, `mlartifacts/`, `logs/`, `cache/`) lies in
    `state_dir` and stays; processes and Ray's temporary folder do not. `environment` is what a client process needs:
    the addresses, and settings that keep a small machine responsive. Raises ProcessError when a server does not get
    ready within `ready_timeout_s`.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        num_cpus: int | None = None,
        num_gpus: int | None = None,
        tracking_uri: str | None = None,
        ready_timeout_s: float = 90.0,
    ) -> None:
        self.state_dir = state_dir.resolve()
        self.log_dir = self.state_dir / "logs"
        self.cache_dir = self.state_dir / "cache"
        for folder in (self.log_dir, self.cache_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self._ready_timeout_s = ready_timeout_s
        env = base_environment()
        self.mlflow = None if tracking_uri else MlflowServer(self.state_dir, self.log_dir, env)
        self.tracking_uri = tracking_uri or (self.mlflow.uri if self.mlflow else "")
        env["MLFLOW_TRACKING_URI"] = self.tracking_uri
        self.ray = RayHead(self.log_dir, env, num_cpus=num_cpus or default_num_cpus(), num_gpus=num_gpus)
        self.environment = {
            **env,
            # A driver that calls the endpoint's deployments must speak as they do.
            **self.ray.front.environment,
            "RAY_ADDRESS": self.ray.address,
            "RAY_DASHBOARD_ADDRESS": self.ray.dashboard_url,
            "RAY_API_SERVER_ADDRESS": self.ray.dashboard_url,
        }

    def start(self) -> None:
        """Start both servers at once; `wait_for_mlflow` and `wait_for_ray` say when they are ready."""
        if self.mlflow:
            self.mlflow.process.start()
        self.ray.process.start()

    def wait_for_mlflow(self) -> None:
        if self.mlflow:
            self.mlflow.wait_until_ready(self._ready_timeout_s)

    def wait_for_ray(self) -> None:
        self.ray.wait_until_ready(self._ready_timeout_s)

    def ended_process(self) -> Process | None:
        """A server that has ended by itself, if any."""
        servers = [self.ray.process, *([self.mlflow.process] if self.mlflow else [])]
        return next((server for server in servers if server.returncode is not None), None)

    def stop(self) -> None:
        """End both servers and all their processes; returns when they are gone."""
        if self.mlflow:
            self.mlflow.process.ask_to_stop()
        try:
            self.ray.stop()
        finally:
            if self.mlflow:
                self.mlflow.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_for_mlflow()
            self.wait_for_ray()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def base_environment() -> dict[str, str]:
    """This process's environment without another cluster's address, with what every process of ours is given."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_ADDRESSES_OF_OTHERS)}
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, [env.get(name), LOOPBACK, "localhost"]))
    # `python`, `serve` and `ray` of a submitted job are this environment's, activated or not.
    env["PATH"] = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), env.get("PATH")]))
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    # Loopback only, so no tokens; said aloud because Ray's default depends on what ran before on this machine.
    env["RAY_AUTH_MODE"] = "disabled"
    # Said of a cluster that spans no machines: without it Ray turns 127.0.0.1 into the address of the network card
    # and listens on all interfaces.
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    env["MLFLOW_DISABLE_TELEMETRY"] = "true"
    env["GIT_PYTHON_REFRESH"] = "quiet"
    env["PYTHONUNBUFFERED"] = "1"
    env.setdefault("OMP_NUM_THREADS", "1")
    return env


_ADDRESSES_OF_OTHERS = ("RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_")


def tool(name: str) -> str:
    """The console script of this environment (`ray`, `serve`, `mlflow`), whatever PATH says."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise FileNotFoundError(f"no command {name!r} beside {sys.executable}: install the project's dependencies")
    return str(path)
