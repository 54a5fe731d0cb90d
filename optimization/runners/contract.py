"""Runner: a callable on batched arrays, the same for every backend. Inputs as the manifest says, logits out.

Threads. A Runner may be called from any number of Python threads. `threads` bounds what one call may use of the CPU:
ONNX Runtime has a pool a Runner, so two Runners do not share it; PyTorch, and what AOTInductor compiles, have one pool
a process, whose size the Runner opened last sets. A GPU's Runners ignore it but for what they leave to the CPU.

Shape suffixes: B batch, C classes.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array, TensorSpec


class RunnerError(ValueError):
    """A batch or an Artifact that a Runner cannot run."""


class BackendUnavailableError(RunnerError):
    """This machine lacks what a backend needs; another backend may run the same Artifact."""


class Runner(Protocol):
    """Thread-safe. `device` ("cpu" or "cuda") and `precision` are those that really run, whatever was asked for.

    `precision` is what the products of the model are computed in. It can be wider than what the Artifact stores: ONNX
    Runtime on an x86 CPU reads FP16 weights and multiplies in FP32.
    """

    input_spec: TensorSpec
    output_spec: TensorSpec
    device: str
    precision: str

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        """A batch as `input_spec` says -> float32 logits [B, C]; raises RunnerError on any other array."""
        ...


def batch_check(spec: TensorSpec) -> Callable[[Array], None]:
    """A function that raises RunnerError on a batch that is not as `spec` says, or is empty.

    It runs once a request, so what a request does not change is looked up here.
    """
    dtype = spec.dtype
    row = spec.shape[1:] if spec.shape[0] == -1 and -1 not in spec.shape[1:] else None

    def check(batch: Array) -> None:
        fits = batch.shape[1:] == row if row is not None else spec.admits(batch.shape)
        if not fits or not batch.size or batch.dtype != dtype:
            raise RunnerError(
                f"input {spec.name!r} wants {spec.datatype} {list(spec.shape)}; got {batch.dtype} {list(batch.shape)}"
            )

    return check


def require_precision(stored: str, said: str, name: str) -> None:
    """Raises RunnerError where a model is stored in another precision than its manifest says."""
    if stored != said:
        raise RunnerError(
            f"{name} is stored in {stored}, its manifest says {said}: write the Artifact anew with its true precision"
        )
