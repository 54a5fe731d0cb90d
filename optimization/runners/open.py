"""Open a Runner: which backend runs an Artifact, and what is said when it cannot."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optimization.runners.aot_inductor import AotInductorRunner, require_compiler
from optimization.runners.contract import BackendUnavailableError, Runner, RunnerError
from optimization.runners.eager import TorchRunner, require_torch_cuda
from optimization.runners.names import Backend
from optimization.runners.native_cache import NativeCache
from optimization.runners.onnx_runtime import OnnxRunner, require_provider
from optimization.runners.profile import ShapeProfile
from optimization.runners.tensorrt_engine import TensorRtRunner, require_tensorrt
from training.artifact import Artifact, ModelFormat

# What runs a format on any machine: the choice of "auto", and what a fallback falls back to.
ON_ANY_CPU: Mapping[ModelFormat, Backend] = {"torch": "torch", "onnx": "onnxruntime-cpu"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Way:
    """How a backend runs: `require` raises BackendUnavailableError where this machine lacks what it needs."""

    format: ModelFormat
    require: Callable[[], None]
    open: Callable[[Artifact, int, NativeCache, ShapeProfile | None], Runner]


def _require_compiler_and_cuda() -> None:
    require_compiler()
    require_torch_cuda()


_WAYS: Mapping[Backend, _Way] = {
    "torch": _Way("torch", lambda: None, lambda made, threads, cache, profile: TorchRunner(made, threads)),
    "torch-cuda": _Way(
        "torch", require_torch_cuda, lambda made, threads, cache, profile: TorchRunner(made, threads, "cuda")
    ),
    "aot-inductor": _Way(
        "torch",
        require_compiler,
        lambda made, threads, cache, profile: AotInductorRunner(made, threads, "cpu", cache),
    ),
    "aot-inductor-cuda": _Way(
        "torch",
        _require_compiler_and_cuda,
        lambda made, threads, cache, profile: AotInductorRunner(made, threads, "cuda", cache),
    ),
    "onnxruntime-cpu": _Way(
        "onnx", lambda: require_provider("cpu"), lambda made, threads, cache, profile: OnnxRunner(made, threads)
    ),
    "onnxruntime-cuda": _Way(
        "onnx",
        lambda: require_provider("cuda"),
        lambda made, threads, cache, profile: OnnxRunner(made, threads, "cuda"),
    ),
    "onnxruntime-tensorrt": _Way(
        "onnx",
        lambda: require_provider("tensorrt"),
        lambda made, threads, cache, profile: OnnxRunner(made, threads, "tensorrt", cache, profile),
    ),
    "tensorrt": _Way(
        "onnx", require_tensorrt, lambda made, threads, cache, profile: TensorRtRunner(made, cache, profile)
    ),
}


def open_runner(
    artifact: Artifact,
    threads: int = 1,
    backend: Backend | Literal["auto"] = "auto",
    allow_fallback: bool = False,
    cache_dir: Path | None = None,
    profile: ShapeProfile | None = None,
) -> Runner:
    """A Runner of `artifact` on `threads` CPU threads.

    "auto" is the CPU runtime of the Artifact's format, on every machine: which backend is fastest is measured, not
    guessed. Raises RunnerError where the backend cannot run the Artifact, and its subclass BackendUnavailableError,
    with what to install, where this machine cannot run the backend. `allow_fallback` forgives the latter alone: the
    Artifact then runs on the CPU, the Runner says so and a warning is logged.

    `cache_dir` keeps native code built here (by default ~/.cache/tandem/native); `profile` bounds the shapes of
    TensorRT's engines (by default 1 to 32 rows), and other backends take any.
    """
    form = artifact.manifest.format
    chosen = ON_ANY_CPU[form] if backend == "auto" else backend
    if chosen not in _WAYS:
        raise RunnerError(f"backend {backend!r} is not one of auto, {', '.join(_WAYS)}")
    way = _WAYS[chosen]
    if way.format != form:
        fitting = ", ".join(name for name, other in _WAYS.items() if other.format == form)
        raise RunnerError(
            f"backend {backend!r} runs Artifacts of format {way.format!r}; {artifact.manifest.name} "
            f"({artifact.manifest.variant}) is of format {form!r}: choose one of {fitting}"
        )
    cache = NativeCache(cache_dir)
    try:
        return way.open(artifact, threads, cache, profile)
    except BackendUnavailableError as error:
        if not allow_fallback or chosen == ON_ANY_CPU[form]:
            raise
        logger.warning("%s runs on %s instead of %s: %s", artifact.folder, ON_ANY_CPU[form], chosen, error)
        return _WAYS[ON_ANY_CPU[form]].open(artifact, threads, cache, profile)


def why_unavailable(backend: Backend) -> str | None:
    """What this machine lacks to run `backend`, in a sentence; None where it lacks nothing that can be told ahead."""
    try:
        _WAYS[backend].require()
    except BackendUnavailableError as error:
        return str(error)
    return None
