"""TCP ports of this machine: which are free, and who holds one that is not."""

import random
import socket
from contextlib import ExitStack
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
# Below the range from which Linux and macOS hand out ports to outgoing connections.
_LOWEST, _HIGHEST = 20_000, 32_000

_PROGRAMS = {
    "docker": "Docker",
    "com.docker": "Docker",
    "containerd": "Docker",
    "rootlessport": "Podman",
    "ray": "Ray",
    "gcs_server": "Ray",
    "haproxy": "HAProxy",
    "nginx": "nginx",
    "apache": "Apache",
    "httpd": "Apache",
    "java": "Java",
    "node": "Node.js",
    "ssh": "SSH",
    "mlflow": "MLflow",
    "jupyter": "Jupyter",
    "python": "Python",
    "uvicorn": "Python",
    "gunicorn": "Python",
}
_PYTHON_TOOLS = {"mlflow": "MLflow", "jupyter": "Jupyter", "jupyter-lab": "Jupyter", "ray": "Ray", "serve": "Ray"}


@dataclass(frozen=True)
class Holder:
    """The process that listens on a port; `pid` is None where the system does not tell this user."""

    pid: int | None
    name: str
    family: str

    def __str__(self) -> str:
        return f"{self.family} (process {self.name!r}, pid {self.pid})" if self.pid else self.family


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could bind `host:port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick_port(preferred: int) -> int:
    """`preferred` where it is free, else another free port."""
    return preferred if is_free(preferred) else free_block(1)


def free_block(count: int, attempts: int = 200) -> int:
    """The first of `count` neighbouring ports that are all free at this moment.

    Raises OSError when no such block is found.
    """
    for _ in range(attempts):
        first = random.randrange(_LOWEST, _HIGHEST - count)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
            return first
    raise OSError(f"no block of {count} free TCP ports between {_LOWEST} and {_HIGHEST} in {attempts} tries")


def find_holder(port: int) -> Holder:
    """Who listens on `port`, as far as this user may see it."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                process = psutil.Process(connection.pid)
                name, command = process.name(), " ".join(process.cmdline())
            except psutil.Error:
                break
            return Holder(connection.pid, name, family_of(name, command))
    return Holder(None, "", "a process of another user, such as Docker or a system service")


def family_of(name: str, command: str) -> str:
    """The kind of program behind a process, in a word that a person can act on."""
    program = name.lower()
    family = next((family for prefix, family in _PROGRAMS.items() if program.startswith(prefix)), None)
    if family == "Python":
        arguments = {word.rsplit("/", 1)[-1] for word in command.split()[:4]}
        return next((tool for word, tool in _PYTHON_TOOLS.items() if word in arguments), family)
    return family or name or "an unknown program"
