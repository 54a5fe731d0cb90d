"""Results: everything that one comparison measured and under what, as JSON that grows while it runs."""

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.peers.rounds import CEILING, Sample, as_json, from_json


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass
class Results:
    """`about` is free of measurements: machine, client, plan, versions. `skipped`: server -> why."""

    about: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Results":
        data = json.loads(path.read_text())
        return cls(data["about"], [from_json(sample) for sample in data["samples"]], data["skipped"])

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"about": self.about, "skipped": self.skipped, "samples": [as_json(item) for item in self.samples]}
        scratch = path.with_suffix(".partial")
        scratch.write_text(json.dumps(data, indent=1) + "\n")
        scratch.replace(path)

    def has(self, server: str, number: int) -> bool:
        return any(sample.server == server and sample.round == number for sample in self.samples)

    def of(self, server: str, kind: str, connections: int) -> list[Sample]:
        wanted = (server, kind, connections)
        return [item for item in self.samples if (item.server, item.kind, item.connections) == wanted]

    def rate(self, server: str, kind: str, connections: int) -> Spread | None:
        """Requests a second."""
        found = [sample.load.requests_per_s for sample in self.of(server, kind, connections) if sample.load]
        return Spread.of(found) if found else None

    def best_connections(self, server: str, kind: str) -> int | None:
        """At how many connections the server answered most; None where it was not measured."""
        rates = {count: self.rate(server, kind, count) for count in self.about["plan"]["connections"]}
        measured = {count: spread.median for count, spread in rates.items() if spread is not None}
        return max(measured, key=lambda count: measured[count], default=None)

    def p50_ms(self, server: str, kind: str, connections: int) -> Spread | None:
        found = [sample.load.p50_ms for sample in self.of(server, kind, connections) if sample.load]
        return Spread.of(found) if found else None

    def p99_ms(self, server: str, kind: str, connections: int) -> Spread | None:
        found = [sample.load.p99_ms for sample in self.of(server, kind, connections) if sample.load]
        return Spread.of(found) if found else None

    def ceiling(self, kind: str) -> Spread | None:
        """Images a second of ONNX Runtime alone."""
        found = [sample.images_per_s for sample in self.of(CEILING, kind, 0)]
        return Spread.of(found) if found else None

    def cpu_us(self, server: str, kind: str, connections: int) -> dict[str, float]:
        """CPU microseconds a request by part of the server, medians over the rounds, largest first."""
        found = [sample for sample in self.of(server, kind, connections) if sample.load and sample.load.requests]
        parts = {part for sample in found for part in sample.cpu_s}
        shares = {part: statistics.median(_us(sample, part) for sample in found) for part in parts}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def others_share(self) -> Spread | None:
        """Share of the cores' time that went to neither server nor client, over all measurements."""
        cores = self.about["machine"]["cores_used"]
        found = [sample.others_cpu_s / (cores * sample.load.seconds) for sample in self.samples if sample.load]
        return Spread.of(found) if found else None


def _us(sample: Sample, part: str) -> float:
    assert sample.load is not None
    return 1e6 * sample.cpu_s.get(part, 0.0) / sample.load.requests


def machine() -> dict[str, Any]:
    """What the figures depend on and a reader has to know."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = found[0] if found else cpu
    return {
        "cpu": cpu,
        "cores_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of `about` differs between a run and the one that it would continue."""
    names = ("machine", "client", "plan", "model_sha256")
    return [name for name in names if before.get(name) != now.get(name)]
