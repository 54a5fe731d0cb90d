"""Deploy `serve_config.yaml` through Ray's own `serve deploy`, and say when the endpoint answers."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from apps.launcher.grpc_ready import grpc_is_ready
from apps.launcher.local import tool
from apps.launcher.ports import LOOPBACK
from apps.serve_config import ServeConfigError, check


class DeployError(RuntimeError):
    """Ray Serve could not bring the application up, or not in time."""


# The usual ports are 8000 and 9000: gRPC goes as far above any other.
GRPC_PORT_OFFSET = 1000


def write_config(source: Path, target: Path, *, port: int, args: Mapping[str, object]) -> str:
    """Write `source` to `target` with this port on loopback and these arguments; returns the application's name.

    gRPC, where `source` has it, listens on `port` + GRPC_PORT_OFFSET.

    Raises DeployError where `source` is not a Serve config with one application, or says what Serve would ignore.
    """
    config = yaml.safe_load(source.read_text())
    applications = config.get("applications") if isinstance(config, dict) else None
    if not isinstance(applications, list) or len(applications) != 1:
        raise DeployError(f"{source} must be a Serve config with exactly one entry under 'applications'")
    config["http_options"] = {**(config.get("http_options") or {}), "host": LOOPBACK, "port": port}
    if config.get("grpc_options"):
        config["grpc_options"] = {**config["grpc_options"], "port": port + GRPC_PORT_OFFSET}
    application = applications[0]
    application["args"] = {**(application.get("args") or {}), **args}
    try:
        check(config)
    except ServeConfigError as error:
        raise DeployError(f"{source} is not what Ray Serve would do:\n{error}") from error
    target.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(application.get("name", "default"))


def deploy_command(config: Path, dashboard_url: str) -> list[str]:
    return [tool("serve"), "deploy", str(config), "--address", dashboard_url]


def grpc_port(config: Path) -> int | None:
    """Where a Serve config lets gRPC listen, if it does."""
    options = yaml.safe_load(config.read_text()).get("grpc_options")
    return int(options["port"]) if options else None


def wait_until_running(
    dashboard_url: str,
    application: str,
    endpoint_url: str,
    *,
    timeout_s: float,
    note: Callable[[str], None],
    grpc_port: int | None = None,
) -> None:
    """Return when Ray Serve says RUNNING, the endpoint says that it is ready, and gRPC answers at `grpc_port`.

    Raises DeployError with Serve's own reason when the deployment failed, or with its last state after `timeout_s`.
    Without a healthy proxy of ours, whoever answers at `endpoint_url` is not the endpoint.
    """
    import httpx

    deadline = time.monotonic() + timeout_s
    state = "unknown"
    with httpx.Client(trust_env=False, timeout=10.0) as client:
        while time.monotonic() < deadline:
            try:
                state = _application_state(client.get(f"{dashboard_url}/api/serve/applications/").json(), application)
                if state == "RUNNING":
                    if client.get(f"{endpoint_url}/v2/health/ready").status_code != 200:
                        state = "RUNNING, but /v2/health/ready does not answer 200"
                    # HAProxy learns of the replicas' gRPC by a reload of its own, which may come later.
                    elif grpc_port is not None and not grpc_is_ready(grpc_port):
                        state = f"RUNNING, but gRPC at port {grpc_port} does not answer"
                    else:
                        return
            except (httpx.HTTPError, ValueError) as error:
                state = f"no answer ({error!r})"
            note(state)
            time.sleep(0.25)
    raise DeployError(f"application {application!r} was not serving after {timeout_s:.0f} s; last seen: {state}")


def _application_state(answer: Mapping[str, Any], name: str) -> str:
    details = answer.get("applications", {}).get(name, {})
    proxies = [str(proxy.get("status")) for proxy in answer.get("proxies", {}).values()]
    status = str(details.get("status", "not there yet"))
    if status in ("DEPLOY_FAILED", "UNHEALTHY"):
        raise DeployError(f"Ray Serve says {status} of application {name!r}: {_reasons(details)}")
    waiting = [
        f"{deployment} {info.get('status')}"
        for deployment, info in details.get("deployments", {}).items()
        if info.get("status") != "HEALTHY"
    ]
    if status == "RUNNING" and "HEALTHY" not in proxies:
        waiting.append(f"HTTP proxy {', '.join(proxies) or 'not there yet'}")
    return f"{status} ({', '.join(waiting)})" if waiting else status


def _reasons(details: Mapping[str, Any]) -> str:
    messages = [str(details.get("message", ""))]
    messages += [str(info.get("message", "")) for info in details.get("deployments", {}).values()]
    return "\n".join(dict.fromkeys(message for message in messages if message)) or "no reason given"
