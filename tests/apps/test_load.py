"""What a replica loads: verified Artifacts, warm, and no code that a registry names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.args import RunnerArgs
from apps.batching.batcher import BatchLimits
from apps.load import ModelSource, open_batcher
from apps.observe.metered import RunsOn
from optimization.runners.contract import BackendUnavailableError, Runner, RunnerError
from optimization.runners.open import open_runner
from tests.tiny import write_tiny
from tests.toys import images, write_torch
from training.artifact import Artifact, ArtifactError
from training.models.architecture import Architecture
from training.registry import Version
from training.task import Source

VERSION = Version("tiny", 1, "d" * 64, "run", {})


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModelSource:
    """A registry that hands out the folder `fetched`."""

    class Fetched:
        def __init__(self, tracking_uri: str) -> None: ...

        def fetch(self, version: Version, cache_dir: Path) -> Path:
            return tmp_path / "fetched"

    monkeypatch.setattr("apps.load.Registry", Fetched)
    return ModelSource(VERSION, "http://127.0.0.1:1", str(tmp_path), BatchLimits(4, 8), threads=1)


def test_an_onnx_artifact_is_loaded_and_warm(source: ModelSource, tmp_path: Path) -> None:
    written = write_tiny(tmp_path / "fetched", "student", 0.0)
    assert isinstance(source.fetch(), Artifact)
    assert source.fetch().digest == written.digest
    batcher, runs_on = open_batcher(source.fetch(), source)
    assert batcher.call_s(1) > 0
    assert runs_on == RunsOn("cpu", "fp32")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose ONNX Runtime has no provider but the CPU's."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.mark.usefixtures("no_cuda")
def test_a_backend_that_cannot_run_here_is_an_error_that_names_model_backend_and_remedies(
    source: ModelSource, tmp_path: Path
) -> None:
    write_tiny(tmp_path / "fetched", "student", 0.0)
    on_gpu = replace(source, runner=RunnerArgs(backend="onnxruntime-cuda"))
    said = r"tiny@1 is to run by onnxruntime-cuda.*make gpu.*allow_fallback"
    with pytest.raises(BackendUnavailableError, match=said):
        open_batcher(on_gpu.fetch(), on_gpu)


@pytest.mark.usefixtures("no_cuda")
def test_a_fallback_that_is_allowed_says_what_really_runs(source: ModelSource, tmp_path: Path) -> None:
    write_tiny(tmp_path / "fetched", "student", 0.0)
    forgiving = replace(source, runner=RunnerArgs(backend="onnxruntime-cuda", allow_fallback=True))
    _, runs_on = open_batcher(forgiving.fetch(), forgiving)
    assert runs_on.device == "cpu"


def test_a_backend_of_another_format_is_refused_with_those_that_fit(source: ModelSource, tmp_path: Path) -> None:
    write_tiny(tmp_path / "fetched", "student", 0.0)
    wrong = replace(source, runner=RunnerArgs(backend="torch", allow_fallback=True))
    with pytest.raises(RunnerError, match=r"tiny@1 cannot be served by torch: .*choose one of onnxruntime-cpu"):
        open_batcher(wrong.fetch(), wrong)


def test_native_code_is_kept_under_the_cache_folder_and_built_for_the_batches_that_come(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = write_tiny(tmp_path / "fetched", "student", 0.0)
    asked: list[tuple[Any, ...]] = []

    def open_here(made: Artifact, *arguments: Any) -> Runner:
        asked.append(arguments)
        return open_runner(made)

    monkeypatch.setattr("apps.load.open_runner", open_here)
    open_batcher(source.fetch(), replace(source, runner=RunnerArgs(backend="tensorrt")))
    ((threads, backend, allow_fallback, cache_dir, shapes),) = asked
    assert (threads, backend, allow_fallback, cache_dir) == (1, "tensorrt", False, tmp_path / "native")
    row = artifact.manifest.input.shape[1:]
    assert (shapes.min_shape, shapes.opt_shape, shapes.max_shape) == ((1, *row), (4, *row), (4, *row))


def test_a_built_in_pytorch_model_is_loaded(source: ModelSource, tmp_path: Path) -> None:
    write_torch(tmp_path / "fetched", images(Source()), Architecture("convnet", {"widths": [4]}))
    assert source.fetch().manifest.format == "torch"


def test_a_pytorch_model_that_names_code_is_refused_before_it_runs(source: ModelSource, tmp_path: Path) -> None:
    write_torch(tmp_path / "fetched", images(Source()), Architecture("tests.toys:dense"))
    with pytest.raises(ArtifactError, match=r"tiny@1 would run the code 'tests\.toys:dense': export it to ONNX"):
        source.fetch()
