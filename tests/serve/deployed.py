"""An application on the session's cluster, brought there by the command that a user would type."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from apps.launcher.deploy import deploy_command, wait_until_running
from apps.launcher.local import ROOT, LocalCluster
from tests.tiny import publish_tiny
from training.registry import Registry


@dataclass(frozen=True)
class Deployed:
    cluster: LocalCluster
    url: str
    name: str
    grpc_address: str

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """What Serve says of the replicas that run."""
        answer = httpx.get(f"{self.cluster.ray.dashboard_url}/api/serve/applications/", trust_env=False, timeout=30)
        details = answer.json()["applications"][self.name]["deployments"][deployment]
        return [replica for replica in details["replicas"] if replica["state"] == "RUNNING"]


def publish_champion(cluster: LocalCluster, folder: Path, model: str) -> None:
    """A champion of tiny models: to their logits the student adds nothing, the teacher 100 (tests.tiny)."""
    registry = Registry(cluster.tracking_uri)
    publish_tiny(registry, folder, model=model, alias="champion", threshold=0.9, student_offset=0.0)


def deploy(
    cluster: LocalCluster,
    folder: Path,
    port: int,
    name: str,
    args: dict[str, Any],
    deployments: dict[str, dict[str, Any]] | None = None,
    import_path: str = "apps.graph:build",
) -> Deployed:
    """Deploy the shipped serve_config.yaml with other `args` and settings by deployment; wait until it serves."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config["grpc_options"]["port"] = port + 1
    (application,) = config["applications"]
    application["name"] = name
    application["import_path"] = import_path
    application["args"] = {**args, "cache_dir": str(cluster.cache_dir)}
    for deployment in application["deployments"]:
        settings = (deployments or {}).get(deployment["name"], {})
        if "num_replicas" in settings:
            deployment.pop("autoscaling_config", None)
        deployment.update(settings)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = deploy_command(path, cluster.ray.dashboard_url)
    subprocess.run(command, env=cluster.environment, cwd=ROOT, check=True, timeout=120, stdout=sys.stderr)
    url = f"http://127.0.0.1:{port}"
    wait_until_running(cluster.ray.dashboard_url, name, url, timeout_s=120, note=lambda state: None, grpc_port=port + 1)
    return Deployed(cluster, url, name, f"127.0.0.1:{port + 1}")


def serve_nothing(cluster: LocalCluster, port: int) -> None:
    """Start Ray Serve without an application: its front end alone."""
    options = {"http_options": {"host": "127.0.0.1", "port": port}, "proxy_location": "HeadOnly", "applications": []}
    dashboard = cluster.ray.dashboard_url
    answer = httpx.put(f"{dashboard}/api/serve/applications/", json=options, trust_env=False, timeout=60)
    answer.raise_for_status()
    until(lambda: answers(f"http://127.0.0.1:{port}/-/healthz"), 60, "the front end answers")


def answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False, timeout=10)
    except httpx.TransportError:
        return False
    return True


def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)
