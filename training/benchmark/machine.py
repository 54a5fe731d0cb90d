"""What a benchmark ran on: the facts without which its figures say nothing."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "ray", "numpy")


def machine() -> dict[str, str]:
    """Processor, logical cores, GPU, and the versions that were run."""
    facts = {"processor": _processor(), "logical cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    import torch

    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return facts


def describe(facts: dict[str, str]) -> str:
    """The facts as one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
