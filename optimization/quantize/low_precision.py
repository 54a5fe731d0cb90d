"""16-bit floats: half the size, and faster where the processor computes in them (ONNX -> ONNX).

Inputs and logits keep the types of the manifest. On most CPUs ONNX Runtime has fp16 in storage alone: it computes in
float32 between casts. It has next to nothing in bf16 there, so such a graph is refused, unless it is for elsewhere.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from optimization.quantize.bfloat16 import to_bfloat16
from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import read_graph, to_bytes
from optimization.quantize.onnxruntime_door import optimized, prepared, to_float16

LARGEST_FP16 = 65504.0
# How ONNX Runtime names the casts by which it does in float32 what it has no 16-bit kernel for.
CAST_OF_RUNTIME = "InsertedPrecisionFreeCast_"


@dataclass(frozen=True)
class LowPrecision:
    format: Literal["fp16", "bf16"] = "fp16"
    float_ops: tuple[str, ...] = ()  # operators that stay in float32; fp16 alone
    must_run_here: bool = True  # refuse a graph that ONNX Runtime cannot run on this CPU; False: it is for elsewhere

    def __post_init__(self) -> None:
        object.__setattr__(self, "float_ops", tuple(self.float_ops))  # JSON has lists alone
        if self.format not in ("fp16", "bf16"):
            raise QuantizationError(f"format is {self.format!r}; it is fp16 or bf16")
        if self.format == "bf16" and self.float_ops:
            raise QuantizationError("a bf16 graph is bf16 throughout: leave out float_ops, or choose fp16")


@dataclass(frozen=True)
class Support:
    """Whether ONNX Runtime runs a graph on this CPU, and whether in its own precision; `reason` says what is amiss."""

    runs: bool
    native: bool
    reason: str


def lower_precision(content: bytes, choice: LowPrecision = LowPrecision()) -> bytes:
    """The float32 graph `content` in fp16 or bf16.

    Raises QuantizationError where a weight is too large for fp16, where an operator has no bf16 form, and, with
    `must_run_here`, where this CPU cannot run the result.
    """
    model = prepared(read_graph(content))
    if choice.format == "fp16":
        _require_in_fp16(model)
        made = to_float16(model, choice.float_ops)
    else:
        made = to_bfloat16(model)
    lowered = to_bytes(made)
    if choice.must_run_here:
        support = cpu_support(lowered)
        if not support.runs:
            raise QuantizationError(
                f"this CPU cannot run the {choice.format} graph: {support.reason}; "
                "choose fp16 or INT8, or set must_run_here to false where it is for a GPU"
            )
    return lowered


def cpu_support(content: bytes) -> Support:
    """What becomes of a graph under ONNX Runtime on this CPU."""
    try:
        model = optimized(content)
    except QuantizationError as error:
        return Support(False, False, str(error.__cause__ or error))
    casts = sum(node.name.startswith(CAST_OF_RUNTIME) for node in model.graph.node)
    if casts:
        return Support(True, False, f"{casts} casts to and from float32 are put in, in which it computes")
    return Support(True, True, "")


def _require_in_fp16(model: Any) -> None:
    import onnx

    largest = {
        tensor.name: float(np.abs(array).max())
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        if (array := onnx.numpy_helper.to_array(tensor)).size > 1
    }
    over = [f"{name} ({size:.3g})" for name, size in largest.items() if size > LARGEST_FP16]
    if over:
        raise QuantizationError(f"fp16 ends at {LARGEST_FP16:.0f}, which is exceeded by {', '.join(over)}: choose bf16")
