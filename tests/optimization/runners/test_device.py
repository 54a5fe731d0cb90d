from pathlib import Path

import pytest

from optimization.cpu import read_cpu
from optimization.runners.contract import BackendUnavailableError
from optimization.runners.device import Device, parse_gpus, this_cpu, this_gpu


def test_the_cpu_is_named_with_its_instructions() -> None:
    found = this_cpu()
    assert (found.kind, found.name) == ("cpu", read_cpu()[0])
    assert found.name
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text()
        assert found.features
        assert all(name in text for name in found.features)
    assert list(found.features) == sorted(found.features)


def test_gpus_are_read_from_the_drivers_lines() -> None:
    assert parse_gpus("NVIDIA H200, 9.0\n") == Device("cuda", "NVIDIA H200", ("sm_90",))
    mixed = parse_gpus("NVIDIA A100, 80GB, 8.0\nNVIDIA H200, 9.0\nNVIDIA H200, 9.0\n")
    assert mixed == Device("cuda", "NVIDIA A100, 80GB + NVIDIA H200", ("sm_80", "sm_90"))


def test_no_gpu_is_said_to_be_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match="no NVIDIA GPU answers"):
        parse_gpus("")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackendUnavailableError, match="no NVIDIA GPU answers"):
        this_gpu()


def test_the_drivers_tool_is_asked_where_pytorch_sees_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 8.9'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_gpu() == Device("cuda", "NVIDIA L4", ("sm_89",))
    tool.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(BackendUnavailableError):
        this_gpu()
