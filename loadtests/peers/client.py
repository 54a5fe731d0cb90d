"""The one client that loads every server: wrk, or a client in Python where wrk is not installed. Closed loop."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadtests.peers.wire import Post

_SCRIPT = Path(__file__).with_name("load.lua")
INSTALL_WRK = "install wrk (Debian and Ubuntu: apt-get install wrk; macOS: brew install wrk)"


class ClientError(RuntimeError):
    """The load could not be sent."""


@dataclass(frozen=True)
class Load:
    """What one client saw. `failed` counts broken connections, time-outs and statuses of 400 and above."""

    requests: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    failed: int

    @property
    def requests_per_s(self) -> float:
        return (self.requests - self.failed) / self.seconds


class Client(Protocol):
    @property
    def described(self) -> str: ...

    def run(self, address: str, posts: Sequence[Post], connections: int, seconds: float) -> Load:
        """Keep `connections` requests of `posts`, in turn, under way at `address` (host:port) for `seconds`."""
        ...


@dataclass(frozen=True)
class Wrk:
    path: str
    described: str

    def run(self, address: str, posts: Sequence[Post], connections: int, seconds: float) -> Load:
        with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
            folder = Path(scratch)
            headers = "".join(f"{name}: {value}\n" for name, value in posts[0].headers.items())
            (folder / "headers").write_text(headers)
            for number, post in enumerate(posts):
                (folder / str(number)).write_bytes(post.body)
            # wrk counts whole seconds.
            command = [self.path, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout=10s"]
            command += ["-s", str(_SCRIPT), f"http://{address}", "--", scratch, str(len(posts)), posts[0].path]
            return _parse(command, seconds + 30)


@dataclass(frozen=True)
class PythonClient:
    described: str = (
        "loadtests.peers.slow_client (Python, one process; above some 3,000 requests/s on a shared machine "
        "it measures itself)"
    )

    def run(self, address: str, posts: Sequence[Post], connections: int, seconds: float) -> Load:
        # A process of its own: its CPU time is told apart from the bench's.
        with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
            plan = Path(scratch, "posts.json")
            bodies = [post.body.hex() for post in posts]
            plan.write_text(json.dumps([posts[0].path, dict(posts[0].headers), bodies]))
            module = [sys.executable, "-m", "loadtests.peers.slow_client"]
            return _parse([*module, address, str(plan), str(connections), str(seconds)], seconds + 30)


def find_client() -> Client:
    """wrk where it is installed."""
    path = shutil.which("wrk")
    if path is None:
        return PythonClient()
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=False).stdout
    return Wrk(path, " ".join(said.split()[:2]) + ", one thread")


def _parse(command: Sequence[str], timeout_s: float) -> Load:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    try:
        return Load(**json.loads(last))
    except (ValueError, TypeError) as error:
        said = f"{done.stdout[-500:]}\n{done.stderr[-500:]}".strip()
        raise ClientError(f"{command[0]} ended with status {done.returncode} and no result: {said}") from error
