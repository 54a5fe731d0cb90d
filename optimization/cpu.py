"""The CPU of this host: its name and what instructions it has."""

import platform
from pathlib import Path


def read_cpu() -> tuple[str, frozenset[str]]:
    """Its model name, and the kernel's names of its instruction sets (none where the kernel does not tell)."""
    cpuinfo = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    model = fields.get("model name") or platform.processor() or platform.machine()
    return model, frozenset((fields.get("flags") or fields.get("Features") or "").split())
