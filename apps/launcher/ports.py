"""TCP ports of this machine: which are free, and who holds one that is not."""

import random
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
# Below the range from which Linux and macOS hand out ports to outgoing connections.
_LOWEST, _HIGHEST, _BLOCK = 20_000, 32_000, 200
# A server that hands its port over to its successor, as HAProxy does at a reload, may not be seen for a moment.
_LOOKS, _LOOK_AGAIN_S = 5, 0.2

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
    "pytest": "Python",
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


@dataclass(frozen=True)
class Reservation:
    """`count` neighbouring ports from `first` that no other launcher of ours chooses before `release`.

    The kernel keeps the promise: the UDP port of the same number is bound meanwhile, which no server of ours needs and
    which is free again however this process ends. A look alone leaves two launchers that start together with one port.
    """

    first: int
    _token: socket.socket = field(repr=False)

    def release(self) -> None:
        self._token.close()


def reserve(preferred: int) -> Reservation:
    """`preferred` where it is free, else another free port."""
    return (is_free(preferred) and _hold(preferred)) or reserve_block(1)


def reserve_block(count: int) -> Reservation:
    """Reserve `count` neighbouring free ports, at most 200; raises OSError when no such block is found."""
    assert count <= _BLOCK
    starts = list(range(_LOWEST, _HIGHEST, _BLOCK))
    random.shuffle(starts)
    for first in starts:
        if _are_free(first, count) and (reservation := _hold(first)):
            return reservation
    raise OSError(f"no block of {count} free TCP ports between {_LOWEST} and {_HIGHEST}")


def free_block(count: int) -> int:
    """The first of `count` neighbouring ports that are free at this moment, for a server that starts at once."""
    reservation = reserve_block(count)
    reservation.release()
    return reservation.first


@contextmanager
def kept_from_others(ports: Iterable[int]) -> Iterator[None]:
    """Within the block nobody finds these free ports free: what chooses its own ports there passes them by."""
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.create_server((LOOPBACK, port)))
        yield


def _hold(port: int) -> Reservation | None:
    token = socket.socket(type=socket.SOCK_DGRAM)
    try:
        token.bind((LOOPBACK, port))
    except OSError:
        token.close()
        return None
    return Reservation(port, token)


def _are_free(first: int, count: int) -> bool:
    with ExitStack() as stack:
        try:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("", port))
        except OSError:
            return False
    return True


def find_holder(port: int) -> Holder:
    """Who listens on `port`, as far as this user may see it."""
    for attempt in range(_LOOKS):
        if attempt:
            time.sleep(_LOOK_AGAIN_S)
        if (holder := _look_for_holder(port)) is not None:
            return holder
    return Holder(None, "", "a process of another user, such as Docker or a system service")


def _look_for_holder(port: int) -> Holder | None:
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
                return None
            return Holder(connection.pid, name, family_of(name, command))
    return None


def family_of(name: str, command: str) -> str:
    """The kind of program behind a process, in a word that a person can act on."""
    program = name.lower()
    family = next((family for prefix, family in _PROGRAMS.items() if program.startswith(prefix)), None)
    if family == "Python":
        arguments = {word.rsplit("/", 1)[-1] for word in command.split()[:4]}
        return next((tool for word, tool in _PYTHON_TOOLS.items() if word in arguments), family)
    return family or name or "an unknown program"
