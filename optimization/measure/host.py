"""Host: what a latency was measured on, and what else was running there meanwhile."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from optimization.cpu import read_cpu

# Instructions that decide how fast low-precision arithmetic is.
NOTABLE_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
LIBRARIES = ("numpy", "torch", "onnxruntime")
# Others that keep more than so much of a core busy are worth a word beside the figures.
QUIET_CORES = 0.2


@dataclass(frozen=True)
class Host:
    """What a latency was measured on; `threads` is what each Runner was allowed, `cores` what the process may use."""

    cpu: str
    instructions: tuple[str, ...]
    cores: int
    threads: int
    system: str
    python: str
    libraries: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "libraries": dict(self.libraries)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Host":
        return Host(
            **{
                **data,
                "instructions": tuple(data["instructions"]),
                "libraries": tuple((name, version) for name, version in data["libraries"].items()),
            }
        )


@dataclass(frozen=True)
class Load:
    """What else the machine did while something was measured.

    `average_before` is the system's one-minute load average at the start. `others_cores` is how many cores processes
    other than this one (and those that it started and waited for) kept busy on average, `stolen_cores` how many the
    hypervisor gave to other machines. None where the system does not say.
    """

    average_before: float | None
    others_cores: float | None
    stolen_cores: float | None

    @property
    def quiet(self) -> bool:
        return max(self.others_cores or 0.0, self.stolen_cores or 0.0) <= QUIET_CORES

    def __str__(self) -> str:
        if self.others_cores is None:
            return "unknown: the system does not tell what others use"
        stolen = f", {self.stolen_cores:.2f} taken by other machines" if self.stolen_cores else ""
        verdict = "quiet" if self.quiet else "NOT quiet: read the spread before the median"
        return f"others kept {self.others_cores:.2f} cores busy{stolen} ({verdict})"


class LoadWatch:
    """Starts to count when it is made; `read` says what the load was since."""

    def __init__(self) -> None:
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._busy_s, self._stolen_s = _machine_seconds()
        self._own_s, self._began_s = _own_seconds(), time.monotonic()

    def read(self) -> Load:
        took_s = time.monotonic() - self._began_s
        busy_s, stolen_s = _machine_seconds()
        if busy_s is None or self._busy_s is None or took_s <= 0:
            return Load(self._average, None, None)
        others_s = (busy_s - self._busy_s) - (_own_seconds() - self._own_s)
        stolen = None if stolen_s is None or self._stolen_s is None else (stolen_s - self._stolen_s) / took_s
        # The system counts in ticks: what is a tick's rounding is no negative load.
        return Load(self._average, max(0.0, others_s / took_s), stolen)


def describe_host(threads: int, libraries: Sequence[str] = LIBRARIES) -> Host:
    """This host, with the installed versions of `libraries` (those missing are left out)."""
    model, flags = read_cpu()
    versions = []
    for library in libraries:
        try:
            versions.append((library, metadata.version(library)))
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Host(
        cpu=model,
        instructions=tuple(name for name in NOTABLE_INSTRUCTIONS if name in flags),
        cores=cores,
        threads=threads,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        libraries=tuple(versions),
    )


def _machine_seconds() -> tuple[float | None, float | None]:
    """CPU seconds that all processes have used, and that the hypervisor took, since the machine started."""
    import psutil

    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):
        return None, None
    fields = times._asdict()
    busy = sum(fields.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    return busy, fields.get("steal")


def _own_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
