"""Ray Serve's front end for one cluster on this machine: HAProxy with files and ports that no other cluster shares."""

import os
from collections.abc import Mapping
from pathlib import Path

from apps.flags import missing_flags, serve_environment
from apps.launcher import haproxy
from apps.launcher.ports import LOOPBACK, reserve_block

WRAPPER = Path(haproxy.__file__).resolve()
_HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"
_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
# Ports of ingress replicas. A port rests for 90 s after its replica: this many replacements fit into that time.
_REPLICA_PORTS = 80
_SINGLE_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)


class FrontEnd:
    """What the environment of one Ray head says of Serve.

    `environment` holds `apps.flags` as far as `env` does not set them, and paths in `folder`, which must be short
    because sockets lie there. `notes` says, in lines for a person, what is not as it should be and why.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._reservation = reserve_block(len(_SINGLE_PORTS) + 2 * _REPLICA_PORTS)
        self.notes: list[str] = []
        flags = {**serve_environment(), **{name: env[name] for name in serve_environment() if name in env}}
        if haproxy.find_binary() is None and _HA_PROXY not in env:
            flags[_HA_PROXY] = "0"
            self.notes.append(
                "There is no HAProxy for this platform, so Ray's own proxy serves: correct, but at a fraction of the "
                "throughput, and a request whose replica dies is lost. Install haproxy to change that."
            )
        else:
            self.notes += missing_flags(flags)
        self.environment = {**flags, _CALLBACK: "apps.interfaces.middlewares", **self._paths(folder), **self._ports()}
        if flags[_HA_PROXY] == "1":
            binary = env.get(_BINARY, str(WRAPPER))
            self.environment[_BINARY] = binary
            if binary != str(WRAPPER):
                self.notes.append(
                    f"{binary} runs as HAProxy, as {_BINARY} says: its pages for metrics and statistics listen on all "
                    "interfaces, its own errors are plain text, and it may outlive a cluster that is killed."
                )

    @property
    def metrics_url(self) -> str:
        """Prometheus metrics of HAProxy, where it runs."""
        return f"http://{LOOPBACK}:{self.environment['RAY_SERVE_HAPROXY_METRICS_PORT']}/metrics"

    def release(self) -> None:
        self._reservation.release()

    def _ports(self) -> dict[str, str]:
        first = self._reservation.first
        ports = {name: first + offset for offset, name in enumerate(_SINGLE_PORTS)}
        http = first + len(_SINGLE_PORTS)
        grpc = http + _REPLICA_PORTS
        ports |= {
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": http,
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": http + _REPLICA_PORTS,  # the first that is not theirs
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": grpc,
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": grpc + _REPLICA_PORTS,
        }
        return {name: str(port) for name, port in ports.items()}

    def _paths(self, folder: Path) -> dict[str, str]:
        # Serve puts a folder named by the node's 56 digits between, and a socket's path has room for 107 characters.
        assert len(os.fsencode(folder)) < 28, f"{folder} is too long for the sockets in it"
        return {
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "stats.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        }
