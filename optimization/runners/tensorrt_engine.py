"""TensorRtRunner: a TensorRT engine, built on the host that runs it from a strongly typed ONNX graph.

Written against the documented Python API of TensorRT 10 and 11 (docs.nvidia.com/deeplearning/tensorrt).
"""

import threading
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optimization.graphs.check import check_graph
from optimization.graphs.parts import GraphError
from optimization.graphs.strong_types import check_strongly_typed
from optimization.runners.contract import BackendUnavailableError, RunnerError, batch_check, require_precision
from optimization.runners.device import this_gpu
from optimization.runners.eager import require_torch_cuda
from optimization.runners.native_cache import BuildInputs, NativeCache, cache_key
from optimization.runners.profile import ShapeProfile, profile_for
from training.artifact import Artifact
from training.encoding import Array, TensorSpec

ENGINE_FILE = "model.engine"
OLDEST_VERSION = 10


class Lane(Protocol):
    """Runs batches through one engine: copies in, computes, copies out. Not thread-safe."""

    def __call__(self, batch: Array) -> NDArray[np.float32]: ...


OpenLane = Callable[[Any, TensorSpec, TensorSpec, ShapeProfile], Lane]


def _cuda_lane(engine: Any, input_spec: TensorSpec, output_spec: TensorSpec, profile: ShapeProfile) -> Lane:
    from optimization.runners.cuda_lane import CudaLane

    return CudaLane(engine, input_spec, output_spec, profile)


class TensorRtRunner:
    """One call at a time: an engine's memory is one batch's, so concurrent calls wait for each other.

    Raises RunnerError where the graph is not strongly typed or TensorRT refuses it, and on a batch outside of the shape
    profile; BackendUnavailableError where TensorRT or a GPU is missing.
    """

    def __init__(
        self,
        artifact: Artifact,
        cache: NativeCache | None = None,
        profile: ShapeProfile | None = None,
        open_lane: OpenLane = _cuda_lane,
    ) -> None:
        require_tensorrt()
        import tensorrt as trt

        manifest = artifact.manifest
        self.input_spec, self.output_spec = manifest.input, manifest.output
        self.profile = profile or profile_for(manifest.input)
        self.profile.require_fit(manifest.input)
        self.device, self.precision = "cuda", str(manifest.precision)
        inputs = BuildInputs(artifact.digest, "tensorrt", trt.__version__, this_gpu(), self.profile, self.precision)
        folder = (cache or NativeCache()).get_or_build(
            cache_key(inputs), lambda target: _build(artifact, self.profile, target)
        )
        engine = load_engine((folder / ENGINE_FILE).read_bytes())
        self._lane = open_lane(engine, self.input_spec, self.output_spec, self.profile)
        self._check = batch_check(self.input_spec)
        self._lock = threading.Lock()

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        self._check(batch)
        if not self.profile.admits(batch.shape):
            raise RunnerError(
                f"a batch of shape {list(batch.shape)} lies outside of the engine's {self.profile}: "
                "send smaller batches, or open the Runner with a profile that admits it"
            )
        with self._lock:
            return self._lane(batch)


def require_tensorrt() -> None:
    """Raises BackendUnavailableError without TensorRT (10 or newer) or without a GPU that PyTorch sees."""
    if util.find_spec("tensorrt") is None:
        raise BackendUnavailableError(
            "TensorRT's Python package is not installed: it comes from NVIDIA (pip install tensorrt, with NVIDIA's "
            "package index), for Linux and an NVIDIA GPU"
        )
    try:
        import tensorrt as trt
    except Exception as error:  # its loader raises plain errors where a library is missing
        raise BackendUnavailableError(f"TensorRT is installed and cannot be loaded: {error}") from error
    if int(trt.__version__.split(".")[0]) < OLDEST_VERSION:
        raise BackendUnavailableError(
            f"TensorRT {trt.__version__} is installed; strongly typed engines need {OLDEST_VERSION} or newer"
        )
    require_torch_cuda()


def build_engine(content: bytes, spec: TensorSpec, profile: ShapeProfile) -> bytes:
    """The serialized engine of an ONNX graph, with the precisions that the graph itself says.

    Raises RunnerError with the parser's or the builder's words where TensorRT refuses the graph.
    """
    import tensorrt as trt

    profile.require_fit(spec)
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    # TensorRT 11 knows no other networks and ignores the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        told = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise RunnerError(f"TensorRT {trt.__version__} cannot read the graph: {told or 'it gives no reason'}")
    config = builder.create_builder_config()
    # On by default: FP32 would be multiplied with 10 bits of mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(spec.name, profile.min_shape, profile.opt_shape, profile.max_shape)
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RunnerError(f"TensorRT {trt.__version__} cannot build an engine of the graph for {profile}")
    return bytes(plan)


def load_engine(plan: bytes) -> Any:
    """TensorRT's engine; raises RunnerError where this TensorRT or GPU does not take the plan."""
    import tensorrt as trt

    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    if engine is None:
        raise RunnerError(f"TensorRT {trt.__version__} does not take the engine that was built for this machine")
    return engine


def _build(artifact: Artifact, profile: ShapeProfile, folder: Path) -> None:
    manifest = artifact.manifest
    content = artifact.model_path.read_bytes()
    try:
        graph = check_graph(content, manifest.input, manifest.output)
        require_precision(graph.precision, manifest.precision, str(artifact.model_path))
        check_strongly_typed(content, manifest.precision)
    except GraphError as error:
        raise RunnerError(f"cannot build an engine of {artifact.model_path}: {error}") from error
    (folder / ENGINE_FILE).write_bytes(build_engine(content, manifest.input, profile))
