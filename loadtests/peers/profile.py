"""Where a server's time goes under load: CPU by process, and py-spy's samples of its Python processes by package."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from loadtests.peers.catalog import Peer
from loadtests.peers.cpu import seconds_by_pid, seconds_by_thread
from loadtests.peers.cpu import spent as spent_by
from loadtests.peers.rounds import Bench

_CONNECTIONS = 64
_LOAD_S, _RECORD_S, _RATE = 4.0, 8, 250
# py-spy needs a moment to start and one to write.
_MARGIN_S = 2.0
# A process below this share of a core is not worth a table; below these seconds it did nothing.
_WORTH, _TRACE_S = 0.1, 0.02
_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)$")
# Folders that are packages of one installation, not packages themselves.
_OURS = ("apps", "training", "optimization", "loadtests")


@dataclass(frozen=True)
class Frame:
    function: str
    file: str

    @property
    def package(self) -> str:
        """`apps/front.py` of ours by file; of others the package; `python` for the standard library."""
        file = self.file.rpartition("site-packages/")[2]
        first = file.partition("/")[0]
        if first in _OURS:
            return file
        if "/" not in file or re.search(r"(^|/)lib/python3|^(asyncio|concurrent|threading|json|selectors)", file):
            return "python: " + file.rpartition("lib/python3")[2].partition("/")[2] if "lib/python3" in file else file
        return first


@dataclass(frozen=True)
class Stacks:
    """What py-spy saw of one process: innermost frames, and frames anywhere in a stack, with their samples."""

    samples: int
    innermost: Counter[Frame]
    anywhere: Counter[str]

    @classmethod
    def parse(cls, raw: str) -> "Stacks":
        """Of `py-spy record --format raw`: lines of frames from the outside in, by semicolons, and a count."""
        innermost: Counter[Frame] = Counter()
        anywhere: Counter[str] = Counter()
        for line in raw.splitlines():
            stack, _, count = line.rpartition(" ")
            frames = [
                Frame(found["function"], found["file"]) for part in stack.split(";") if (found := _FRAME.match(part))
            ]
            if not frames:
                continue
            innermost[frames[-1]] += int(count)
            for package in {frame.package for frame in frames}:
                anywhere[package] += int(count)
        return cls(innermost.total(), innermost, anywhere)

    def by_package(self) -> Counter[str]:
        shares: Counter[str] = Counter()
        for frame, count in self.innermost.items():
            shares[frame.package] += count
        return shares


def profile(bench: Bench, peer: Peer, py_spy: Path) -> str:
    """A section of Markdown. Raises ServerError where the server does not run."""
    kind, wire = next(iter(peer.wires.items()))
    with bench.running(peer) as (server, address):
        posts = bench.posts(wire, kind)
        bench.client.run(address, posts, _CONNECTIONS, 2)
        before = seconds_by_pid(server.pid)
        threads_before = {pid: seconds_by_thread(pid) for pid in before}
        load = bench.client.run(address, posts, _CONNECTIONS, _LOAD_S)
        threads = {pid: seconds_by_thread(pid) for pid in before}
        spent = {
            pid: (name, seconds - before[pid][1])
            for pid, (name, seconds) in seconds_by_pid(server.pid).items()
            if pid in before
        }
        busiest = sorted(spent.items(), key=lambda item: -item[1][1])
        us = 1e6 / load.requests
        rows = [f"| {name} ({pid}) | {us * cpu_s:,.0f} |" for pid, (name, cpu_s) in busiest if cpu_s > _TRACE_S]
        parts = [
            f"## {peer.title}",
            f"{load.requests_per_s:,.0f} requests/s at {_CONNECTIONS} connections, p50 {load.p50_ms:.2f} ms.",
            "| process | CPU us a request |\n|---|---|\n" + "\n".join(rows),
        ]
        for pid, (name, cpu_s) in busiest:
            if cpu_s < _WORTH * _LOAD_S:
                break
            gone = spent_by(threads_before[pid], threads[pid])
            said = ", ".join(f"{thread} {us * seconds:,.0f}" for thread, seconds in gone.items())
            parts.append(f"Threads of {name}, CPU us a request: {said}.")
            if (stacks := _record(bench, py_spy, pid, address, peer)) is not None:
                parts.append(_table(name, stacks))
    return "\n\n".join(parts)


def _record(bench: Bench, py_spy: Path, pid: int, address: str, peer: Peer) -> Stacks | None:
    """None where py-spy cannot read the process: it is no Python, or the system forbids it."""
    kind, wire = next(iter(peer.wires.items()))
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        out = Path(scratch, "stacks.txt")
        command = [str(py_spy), "record", f"--pid={pid}", f"--duration={_RECORD_S}", f"--rate={_RATE}", "--nonblocking"]
        recorder = subprocess.Popen(
            [*command, "--format=raw", f"--output={out}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            bench.client.run(address, bench.posts(wire, kind), _CONNECTIONS, _RECORD_S + _MARGIN_S)
            _, said = recorder.communicate(timeout=30)
        finally:
            recorder.kill()
            recorder.wait()
        if not out.exists():
            print(f"py-spy has nothing of process {pid}: {said.partition(chr(10))[0]}")
            return None
        return Stacks.parse(out.read_text())


def _table(name: str, stacks: Stacks) -> str:
    if not stacks.samples:
        return f"Process {name}: no sample."
    head = f"Process {name}, {stacks.samples} samples of running threads at {_RATE} a second over {_RECORD_S} s."
    packages = [
        f"| {package} | {count / stacks.samples:.1%} | {stacks.anywhere[package] / stacks.samples:.0%} |"
        for package, count in stacks.by_package().most_common(14)
    ]
    functions = [
        f"| {frame.function} ({frame.file.rpartition('site-packages/')[2]}) | {count / stacks.samples:.1%} |"
        for frame, count in stacks.innermost.most_common(14)
    ]
    return "\n\n".join(
        [
            head,
            "| package | innermost | anywhere in the stack |\n|---|---|---|\n" + "\n".join(packages),
            "| function (innermost; what it calls in C counts as its own) | share |\n|---|---|\n"
            + "\n".join(functions),
        ]
    )
