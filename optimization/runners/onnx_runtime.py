"""OnnxRunner: ONNX Runtime on its CPU, CUDA or TensorRT provider."""

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from optimization.graphs.check import CheckedGraph, check_graph
from optimization.graphs.parts import GraphError
from optimization.graphs.precision import PRODUCTS
from optimization.runners.contract import BackendUnavailableError, RunnerError, batch_check, require_precision
from optimization.runners.device import this_gpu
from optimization.runners.native_cache import BuildInputs, NativeCache, cache_key
from optimization.runners.profile import ShapeProfile, profile_for
from training.artifact import Artifact
from training.encoding import Array, TensorSpec

Provider = Literal["cpu", "cuda", "tensorrt"]
# What ONNX Runtime calls them. Each takes what the ones before it do not, so a GPU's own comes first.
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
CHAINS: dict[Provider, tuple[str, ...]] = {"cpu": (CPU,), "cuda": (CUDA, CPU), "tensorrt": (TENSORRT, CUDA, CPU)}
INSTALL = {
    CUDA: "install the GPU build (`make gpu`, or onnxruntime-gpu in place of onnxruntime) beside an NVIDIA driver",
    TENSORRT: "install the GPU build (`make gpu`) and the TensorRT libraries that it links to, from NVIDIA",
}
HALVES = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
MAX_NAMED = 5

logger = logging.getLogger(__name__)


class OnnxRunner:
    """Sequential, without spinning threads.

    Raises RunnerError where the graph is not sound or not the one that the manifest describes, and
    BackendUnavailableError where another provider than the one asked for would run it.
    """

    def __init__(
        self,
        artifact: Artifact,
        threads: int = 1,
        provider: Provider = "cpu",
        cache: NativeCache | None = None,
        profile: ShapeProfile | None = None,
    ) -> None:
        self.input_spec = artifact.manifest.input
        self.output_spec = artifact.manifest.output
        require_provider(provider)
        graph = _checked(artifact)
        options = _provider_options(artifact, provider, threads, cache, profile)
        try:
            self._session = onnx_session(artifact.model_path, threads, options)
        except Exception as error:  # ONNX Runtime's errors have no root of their own
            raise RunnerError(f"ONNX Runtime cannot open {artifact.model_path}: {error}") from error
        _require_assignment(self._session, provider)
        self.device = "cpu" if provider == "cpu" else "cuda"
        self.precision = computed_precision(graph, provider)
        if self.precision != graph.precision:
            logger.warning(
                "%s is stored in %s; ONNX Runtime's %s provider computes it in %s",
                *(artifact.model_path, graph.precision, provider, self.precision),
            )
        self._check = batch_check(self.input_spec)
        self._input, self._outputs = self.input_spec.name, [self.output_spec.name]

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        self._check(batch)
        logits: NDArray[np.float32] = self._session.run(self._outputs, {self._input: batch})[0]
        return logits


def onnx_session(
    model: Path | bytes, threads: int = 1, providers: tuple[tuple[str, dict[str, str]], ...] = ((CPU, {}),)
) -> Any:
    """An ONNX Runtime session for a path or serialized bytes; it never goes over to another provider by itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool steals the cores that other replicas share.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if len(providers) > 1:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    source = str(model) if not isinstance(model, bytes) else model
    # Its default is to print a line and run on the CPU when a GPU's provider fails, at the start or in any call.
    return onnxruntime.InferenceSession(source, options, providers=list(providers), enable_fallback=0)


def require_provider(provider: Provider) -> None:
    """Raises BackendUnavailableError where the installed build of ONNX Runtime does not have `provider`."""
    import onnxruntime

    name = CHAINS[provider][0]
    found = onnxruntime.get_available_providers()
    if name not in found:
        raise BackendUnavailableError(
            f"ONNX Runtime {onnxruntime.__version__} has no {name}, only {', '.join(found)}: {INSTALL[name]}"
        )
    if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        # CUDA's libraries that come as Python packages lie where no loader looks.
        onnxruntime.preload_dlls()


def computed_precision(graph: CheckedGraph, provider: Provider) -> str:
    """What `provider` multiplies in, for a graph as it is stored.

    The CPU provider has FP16 kernels on some CPUs alone, and computes in FP32 without them. The CUDA provider rounds
    to 8 bits where Q/DQ say so, but multiplies the rounded floats. TensorRT keeps to the graph.
    """
    half = HALVES.get(graph.precision)
    if provider == "cpu" and half is not None and not graph.operators & PRODUCTS <= _operators_with(half):
        return "fp32"
    if provider == "cuda" and graph.precision in ("int8", "fp8") and "QuantizeLinear" in graph.operators:
        return graph.float_precision
    return graph.precision


def _operators_with(tensor_type: str) -> set[str]:
    """Operators that ONNX Runtime's CPU provider has a kernel for with `tensor_type` as their main type."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    return {
        kernel.op_name
        for kernel in get_all_opkernel_def()
        if kernel.provider == CPU and tensor_type in kernel.type_constraints.get("T", ())
    }


def _checked(artifact: Artifact) -> CheckedGraph:
    manifest = artifact.manifest
    try:
        graph = check_graph(artifact.model_path.read_bytes(), manifest.input, manifest.output)
    except GraphError as error:
        raise RunnerError(f"cannot run {artifact.model_path}: {error}") from error
    require_precision(graph.precision, manifest.precision, str(artifact.model_path))
    return graph


def _provider_options(
    artifact: Artifact, provider: Provider, threads: int, cache: NativeCache | None, profile: ShapeProfile | None
) -> tuple[tuple[str, dict[str, str]], ...]:
    # Without this, the CUDA provider multiplies FP32 in TF32.
    options: dict[str, dict[str, str]] = {CPU: {}, CUDA: {"use_tf32": "0"}, TENSORRT: {}}
    chain = CHAINS[provider]
    if provider == "tensorrt":
        profile = profile or profile_for(artifact.manifest.input)
        profile.require_fit(artifact.manifest.input)
        options[TENSORRT] = tensorrt_options(artifact.manifest.input, artifact.manifest.precision, profile)
        folder = _engines(artifact, threads, cache or NativeCache(), profile, options)
        options[TENSORRT] |= _cached_in(folder)
    return tuple((name, options[name]) for name in chain)


def tensorrt_options(spec: TensorSpec, precision: str, profile: ShapeProfile) -> dict[str, str]:
    """The TensorRT provider's options: precision as the graph has it, shapes as the profile says."""

    def shape(sizes: tuple[int, ...]) -> str:
        return f"{spec.name}:{'x'.join(map(str, sizes))}"

    allowed = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}.get(precision)
    return {
        "trt_profile_min_shapes": shape(profile.min_shape),
        "trt_profile_opt_shapes": shape(profile.opt_shape),
        "trt_profile_max_shapes": shape(profile.max_shape),
        **({allowed: "1"} if allowed else {}),
    }


def _cached_in(folder: Path) -> dict[str, str]:
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}


def _engines(
    artifact: Artifact,
    threads: int,
    cache: NativeCache,
    profile: ShapeProfile,
    options: dict[str, dict[str, str]],
) -> Path:
    """The folder of the provider's engines; the first session for a key builds them."""
    import onnxruntime

    inputs = BuildInputs(
        artifact.digest,
        "onnxruntime-tensorrt",
        onnxruntime.__version__,
        this_gpu(),
        profile,
        artifact.manifest.precision,
    )

    def build(folder: Path) -> None:
        building = {**options, TENSORRT: options[TENSORRT] | _cached_in(folder)}
        chain = tuple((name, building[name]) for name in CHAINS["tensorrt"])
        onnx_session(artifact.model_path, threads, chain)

    return cache.get_or_build(cache_key(inputs), build)


def _require_assignment(session: Any, provider: Provider) -> None:
    """Raises BackendUnavailableError unless the products of the graph really run on `provider`."""
    wanted, *others = CHAINS[provider]
    found = session.get_providers()
    if found[0] != wanted:
        raise BackendUnavailableError(
            f"ONNX Runtime runs this graph on {', '.join(found)}, not on {wanted}: its libraries could not be loaded "
            f"on this machine; {INSTALL[wanted]}"
        )
    if others and hasattr(session, "get_provider_graph_assignment_info"):
        astray = [
            f"{node.op_type} ({node.name})"
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != wanted
            for node in part.get_nodes()
            if node.op_type in PRODUCTS
        ]
        if astray:
            raise BackendUnavailableError(
                f"{wanted} does not take {len(astray)} of the graph's products: {', '.join(astray[:MAX_NAMED])}; "
                "run it on another backend, or export it without these"
            )
