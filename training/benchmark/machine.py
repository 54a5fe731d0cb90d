"""What a benchmark ran on: the facts without which its figures say nothing."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

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


def command_line(module: str) -> str:
    """This process's own command, to be pasted."""
    return f"python -m {module} {shlex.join(sys.argv[1:])}".rstrip()


def write_report(folder: Path, name: str, page: str, figures: Mapping[str, Any]) -> None:
    """The Markdown `page` as NAME.md and `figures`, with the machine's facts, as NAME.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(page)
    (folder / f"{name}.json").write_text(json.dumps({"machine": machine(), **figures}, indent=1))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
