import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimization.runners.contract import BackendUnavailableError, RunnerError
from optimization.runners.eager import TorchRunner
from optimization.runners.names import BACKENDS, Backend
from optimization.runners.onnx_runtime import OnnxRunner
from optimization.runners.open import open_runner, why_unavailable
from tests.optimization.graphs.toy_graphs import linear
from tests.optimization.runners.toy_artifacts import write_onnx
from tests.toys import images, write_torch
from training.artifact import Artifact
from training.models.architecture import Architecture
from training.task import Source

FORMATS: dict[Backend, str] = {
    backend: "onnx" if backend.startswith(("onnxruntime", "tensorrt")) else "torch" for backend in BACKENDS
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("artifacts")
    dense = Architecture("tests.toys:dense", {"hidden": 4})
    return {
        "onnx": write_onnx(folder / "onnx", linear()),
        "torch": write_torch(folder / "torch", images(Source()), dense),
    }


def test_auto_is_the_cpu_runtime_of_the_format(artifacts: dict[str, Artifact]) -> None:
    assert isinstance(open_runner(artifacts["torch"]), TorchRunner)
    assert isinstance(open_runner(artifacts["onnx"]), OnnxRunner)


def test_an_unknown_backend_is_refused_with_those_there_are(artifacts: dict[str, Artifact]) -> None:
    unknown: Any = "tensorflow"
    with pytest.raises(RunnerError, match=r"backend 'tensorflow' is not one of auto, torch, .*tensorrt"):
        open_runner(artifacts["onnx"], backend=unknown)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_refuses_the_other_format_and_names_those_that_fit(
    artifacts: dict[str, Artifact], backend: Backend
) -> None:
    form = "torch" if FORMATS[backend] == "onnx" else "onnx"
    with pytest.raises(RunnerError, match=f"is of format '{form}': choose one of ") as told:
        open_runner(artifacts[form], backend=backend, allow_fallback=True)
    fitting = str(told.value).rpartition("choose one of ")[2].split(", ")
    assert fitting == [name for name in BACKENDS if FORMATS[name] == form]


ABSENT = [backend for backend in BACKENDS if why_unavailable(backend) is not None]
# What each names as missing.
MISSING = {
    "torch-cuda": "sees no CUDA device",
    "aot-inductor": "apt install g",
    "aot-inductor-cuda": "sees no CUDA device|apt install g",
    "onnxruntime-cuda": "has no CUDAExecutionProvider, only .*CPUExecutionProvider.*make gpu",
    "onnxruntime-tensorrt": "has no TensorrtExecutionProvider, only .*make gpu.*TensorRT libraries",
    "tensorrt": "not installed: it comes from NVIDIA|sees no CUDA device",
}


@pytest.mark.parametrize("backend", ABSENT)
def test_what_this_machine_lacks_is_said_and_nothing_else_runs(
    artifacts: dict[str, Artifact], backend: Backend, tmp_path: Path
) -> None:
    with pytest.raises(BackendUnavailableError, match=MISSING[backend]):
        open_runner(artifacts[FORMATS[backend]], backend=backend, cache_dir=tmp_path / "native")
    assert not (tmp_path / "native").exists()


@pytest.mark.parametrize("backend", ABSENT)
def test_an_allowed_fallback_runs_on_the_cpu_and_says_so(
    artifacts: dict[str, Artifact], backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = artifacts[FORMATS[backend]]
    with caplog.at_level(logging.WARNING, "optimization.runners.open"):
        runner = open_runner(artifact, backend=backend, allow_fallback=True)
    assert (runner.device, runner.precision) == ("cpu", "fp32")
    (record,) = caplog.records
    instead = {"onnx": "onnxruntime-cpu", "torch": "torch"}[FORMATS[backend]]
    assert f"runs on {instead} instead of {backend}: " in record.getMessage()
    shape = [3 if size == -1 else size for size in runner.input_spec.shape]
    batch = np.zeros(shape, runner.input_spec.dtype)
    np.testing.assert_array_equal(runner(batch), open_runner(artifact)(batch))


def test_a_fallback_does_not_forgive_a_broken_artifact(tmp_path: Path) -> None:
    broken = write_onnx(tmp_path / "broken", b"no graph")
    with pytest.raises(RunnerError, match="no ONNX model"):
        open_runner(broken, backend="onnxruntime-cpu", allow_fallback=True)


def test_the_cpus_own_backends_are_never_missing() -> None:
    assert (why_unavailable("torch"), why_unavailable("onnxruntime-cpu")) == (None, None)
