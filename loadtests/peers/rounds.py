"""The measurement: every server in turn, again and again, each started for its turn and alone with the client."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.peers.catalog import KINDS, SERVERS, Peer
from loadtests.peers.client import Client, ClientError, Load
from loadtests.peers.cpu import busy_seconds, client_seconds, seconds_by_part, spent
from loadtests.peers.environments import python_of
from loadtests.peers.process import ServerError, ServerProcess, free_ports
from loadtests.peers.wire import Post, Wire, WireError

ROOT = Path(__file__).resolve().parents[2]
_IMAGES = 64
CEILING = "onnxruntime"


@dataclass(frozen=True)
class Plan:
    """How much is measured. `warmup_s` of load go before each measurement."""

    kinds: Sequence[str] = ("image", "batch")
    connections: Sequence[int] = (1, 8, 64)
    seconds: float = 4.0
    warmup_s: float = 2.0


@dataclass(frozen=True)
class Sample:
    """One measurement; `load` is None where there is no server. `cpu_s`: CPU seconds meanwhile, by process.

    `others_cpu_s` were taken from the same cores by what belongs to neither server nor client.
    """

    server: str
    kind: str
    connections: int
    round: int
    images_per_s: float
    load: Load | None = None
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    others_cpu_s: float = 0.0


@dataclass(frozen=True)
class Bench:
    """What all turns share. `expected` are ONNX Runtime's logits of `images`."""

    model: Path
    images: NDArray[np.uint8]
    expected: NDArray[np.float32]
    client: Client
    environments: Path
    logs: Path

    @classmethod
    def prepare(cls, model: Path, images: NDArray[np.uint8], client: Client, environments: Path, logs: Path) -> "Bench":
        """Ask ONNX Runtime, in a process of its own, for the right answers."""
        with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
            asked, answered = Path(scratch, "images.npy"), Path(scratch, "logits.npy")
            np.save(asked, images)
            arguments = [f"--model={model}", f"--images={asked}", f"--out={answered}"]
            subprocess.run(
                [sys.executable, "-m", f"{SERVERS}.raw", "answers", *arguments], check=True, cwd=ROOT, env=environment()
            )
            return cls(model, images, np.load(answered), client, environments, logs)

    def ceiling(self, seconds: float, number: int) -> list[Sample]:
        """What ONNX Runtime does with no server round it, on one thread."""
        command = [sys.executable, "-m", f"{SERVERS}.raw", "speed", f"--model={self.model}", f"--seconds={seconds}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment())
        speeds = json.loads(done.stdout)
        return [Sample(CEILING, kind, 0, number, speeds[str(KINDS[kind].rows)]) for kind in ("image", "batch")]

    def turn(self, peer: Peer, plan: Plan, number: int) -> Iterator[Sample]:
        """Start `peer`, check its answers, load it, end it. Raises ServerError or ClientError."""
        with self.running(peer) as (server, address):
            for kind, wire in peer.wires.items():
                if kind not in plan.kinds:
                    continue
                posts = self.posts(wire, kind)
                self.check(peer, wire, kind, address)
                for connections in plan.connections:
                    self.client.run(address, posts, connections, plan.warmup_s)
                    yield self._measure(peer, kind, connections, number, server, address, posts, plan.seconds)

    @contextmanager
    def running(self, peer: Peer) -> Iterator[tuple[ServerProcess, str]]:
        """The server, ready and at its address (host:port), until the block ends."""
        port = free_ports(4)
        address = f"127.0.0.1:{port}"
        # Short: sockets lie in it.
        folder = Path(tempfile.mkdtemp(prefix="peer-", dir="/tmp"))
        try:
            command, env = self._filled(peer, port, folder)
            log = self.logs / f"{peer.name}.log"
            with ServerProcess(command, env, ROOT, log) as server:
                kind, wire = next(iter(peer.wires.items()))
                post = self.posts(wire, kind)[0]
                server.wait_until(lambda: _refusal(address, post), peer.start_timeout_s)
                yield server, address
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def posts(self, wire: Wire, kind: str) -> list[Post]:
        return [wire.post(self.images[rows]) for rows in self._slices(kind)]

    def check(self, peer: Peer, wire: Wire, kind: str, address: str) -> None:
        """Raises ServerError unless every answer has ONNX Runtime's class for every image."""
        if not peer.has_model:
            return
        for rows, post in zip(self._slices(kind), self.posts(wire, kind), strict=True):
            expected = self.expected[rows]
            try:
                logits = wire.logits(*_send(address, post), len(expected))
            except (WireError, OSError, HTTPException) as error:
                raise ServerError(f"{peer.name} does not answer a {kind} request: {error}") from error
            if (logits.argmax(axis=1) != expected.argmax(axis=1)).any():
                raise ServerError(f"{peer.name} answers {logits.tolist()}, ONNX Runtime {expected.tolist()}")

    def _slices(self, kind: str) -> list[slice]:
        rows = KINDS[kind].rows
        return [slice(first, first + rows) for first in range(0, min(len(self.images), 16 * rows), rows)]

    def _measure(
        self,
        peer: Peer,
        kind: str,
        connections: int,
        number: int,
        server: ServerProcess,
        address: str,
        posts: Sequence[Post],
        seconds: float,
    ) -> Sample:
        before, client_before, busy_before = seconds_by_part(server.pid), client_seconds(), busy_seconds()
        load = self.client.run(address, posts, connections, seconds)
        cpu_s = {**spent(before, seconds_by_part(server.pid)), "client": client_seconds() - client_before}
        others_cpu_s = max(0.0, busy_seconds() - busy_before - sum(cpu_s.values()))
        images_per_s = load.requests_per_s * KINDS[kind].rows
        return Sample(peer.name, kind, connections, number, images_per_s, load, cpu_s, others_cpu_s)

    def _filled(self, peer: Peer, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
        """Command and environment with their places filled; writes `peer.files` into `folder`."""
        python = python_of(peer.package, self.environments)
        places: dict[str, object] = {
            "python": python,
            "bin": python.parent,
            "model": self.model,
            "folder": folder,
            "port": port,
        }
        places["libraries"] = sysconfig.get_config_var("LIBDIR")
        places |= {f"port_{offset}": port + offset for offset in (1, 2, 3)}

        def fill(text: str) -> str:
            for name, value in places.items():
                text = text.replace(f"{{{name}}}", str(value))
            return text

        for name, content in peer.files.items():
            (folder / name).write_text(fill(content))
        env = {**environment(), **{name: fill(value) for name, value in peer.env.items()}}
        env["PATH"] = f"{python.parent}{os.pathsep}{env.get('PATH', '')}"
        return [fill(part) for part in peer.command], env


def environment() -> dict[str, str]:
    """This process's environment without what would change a server: one thread a process, no Ray of others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else Ray turns 127.0.0.1 into the address of the network card.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def rounds(
    bench: Bench,
    peers: Sequence[Peer],
    plan: Plan,
    count: int,
    done: Callable[[str, int], bool],
    keep: Callable[[Sequence[Sample]], None],
    skip: Callable[[Peer, str], None],
    until: float,
) -> bool:
    """`count` rounds over ONNX Runtime and `peers`; what is `done` is left out, what is measured goes to `keep`.

    Returns False where `until` (of time.monotonic) came first.
    """
    for number in range(1, count + 1):
        if not done(CEILING, number):
            keep(bench.ceiling(2.0, number))
        for peer in peers:
            if done(peer.name, number):
                continue
            if time.monotonic() > until:
                return False
            try:
                keep(list(bench.turn(peer, plan, number)))
            except (ServerError, ClientError) as error:
                skip(peer, str(error))
    return True


def as_json(sample: Sample) -> dict[str, Any]:
    return asdict(sample)


def from_json(data: dict[str, Any]) -> Sample:
    return Sample(**{**data, "load": Load(**data["load"]) if data["load"] else None})


def _refusal(address: str, post: Post) -> str | None:
    """None where the server answers 200; else what it does."""
    try:
        _send(address, post)
    except (OSError, HTTPException) as error:
        return f"POST {post.path}: {error!r}"
    return None


def _send(address: str, post: Post) -> tuple[dict[str, str], bytes]:
    """Headers (lower case) and body of the answer; raises OSError on any status but 2xx."""
    request = urllib.request.Request(f"http://{address}{post.path}", post.body, dict(post.headers))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as response:
            return {name.lower(): value for name, value in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        detail = error.read(300).decode(errors="replace")
        raise OSError(f"status {error.code} {detail}") from error
