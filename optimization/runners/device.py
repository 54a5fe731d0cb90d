"""Device: what native code was built for, as far as it decides whether that code runs here."""

import subprocess
from dataclasses import dataclass
from typing import Literal

from optimization.cpu import read_cpu
from optimization.runners.contract import BackendUnavailableError

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Device:
    """`features` are a CPU's instruction sets, or a GPU's compute capability."""

    kind: DeviceKind
    name: str
    features: tuple[str, ...]


def this_cpu() -> Device:
    name, instructions = read_cpu()
    return Device("cpu", name, tuple(sorted(instructions)))


def this_gpu() -> Device:
    """The first CUDA device that this process may use; raises BackendUnavailableError where there is none."""
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(0)
        return Device("cuda", torch.cuda.get_device_name(0), (f"sm_{major}{minor}",))
    # A CPU build of PyTorch sees no GPU, where ONNX Runtime may.
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        told = ""
    return parse_gpus(told)


def parse_gpus(told: str) -> Device:
    """nvidia-smi's lines `name, compute capability` as one Device; raises BackendUnavailableError without any.

    With several GPUs the driver does not say which one a process will get, so the Device is all of them.
    """
    rows = [line.rpartition(",") for line in told.splitlines() if "," in line]
    if not rows:
        raise BackendUnavailableError("no NVIDIA GPU answers: neither PyTorch nor nvidia-smi finds one")
    names = dict.fromkeys(name.strip() for name, _, _ in rows)
    capabilities = dict.fromkeys(f"sm_{capability.strip().replace('.', '')}" for _, _, capability in rows)
    return Device("cuda", " + ".join(names), tuple(capabilities))
