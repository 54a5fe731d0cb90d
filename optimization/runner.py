"""Runner: a callable on batched arrays, the same for every backend. Inputs as the manifest says, logits out.

Shape suffixes: B batch, C classes.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.artifact import Artifact
from training.encoding import Array, TensorSpec
from training.module import load_module, predictor


class RunnerError(ValueError):
    """A batch or an Artifact that a Runner cannot run."""


class Runner(Protocol):
    """Thread-safe. `device` and `precision` are those that really run."""

    input_spec: TensorSpec
    output_spec: TensorSpec
    device: str
    precision: str

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        """A batch as `input_spec` says -> float32 logits [B, C]; raises RunnerError on any other array."""
        ...


def open_runner(artifact: Artifact, threads: int = 1) -> Runner:
    """The Runner for an Artifact's format, on `threads` CPU threads."""
    backends: dict[str, type[TorchRunner] | type[OnnxRunner]] = {"torch": TorchRunner, "onnx": OnnxRunner}
    return backends[artifact.manifest.format](artifact, threads)


class TorchRunner:
    """PyTorch in eager mode; weights from safetensors, the module from the manifest's architecture."""

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        import torch

        # Torch has one thread pool a process: the last Runner opened sets its size.
        torch.set_num_threads(threads)
        self._predict = predictor(load_module(artifact))
        self.input_spec = artifact.manifest.input
        self.output_spec = artifact.manifest.output
        self.device = "cpu"
        self.precision: str = artifact.manifest.precision

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        _check(batch, self.input_spec)
        return self._predict(batch)


class OnnxRunner:
    """ONNX Runtime on the CPU provider, sequential, without spinning threads.

    Raises RunnerError where the graph cannot be opened, or is not the one that the manifest describes.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self.input_spec = artifact.manifest.input
        self.output_spec = artifact.manifest.output
        try:
            self._session = onnx_session(artifact.model_path, threads)
        except Exception as error:  # ONNX Runtime's errors have no root of their own
            raise RunnerError(f"ONNX Runtime cannot open {artifact.model_path}: {error}") from error
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = [node.name for node in self._session.get_outputs()]
        if inputs != [self.input_spec.name] or self.output_spec.name not in outputs:
            raise RunnerError(
                f"{artifact.model_path} reads {inputs} and answers {outputs}; its manifest says that it reads "
                f"{self.input_spec.name!r} and answers {self.output_spec.name!r}"
            )
        self.device = "cpu"
        self.precision: str = artifact.manifest.precision

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        _check(batch, self.input_spec)
        outputs = self._session.run([self.output_spec.name], {self.input_spec.name: batch})
        logits: NDArray[np.float32] = outputs[0]
        return logits


def onnx_session(model: Any, threads: int = 1) -> Any:
    """An ONNX Runtime session for a path or serialized bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool steals the cores that other replicas share.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    source = str(model) if not isinstance(model, bytes) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _check(batch: Array, spec: TensorSpec) -> None:
    if batch.dtype != spec.dtype or not spec.admits(batch.shape) or not batch.size:
        raise RunnerError(
            f"input {spec.name!r} wants {spec.datatype} {list(spec.shape)}; got {batch.dtype} {list(batch.shape)}"
        )
