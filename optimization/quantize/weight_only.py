"""Weights of 4 or 8 bits in blocks, activations in float32 (ONNX -> ONNX): for large matrices, as transformers have.

It is for size: a matrix of 4 bits takes a sixth of its float bytes. One row goes through it as fast as through a
dynamic INT8 one, many rows do not (docs/compression-quantize.md).
"""

from dataclasses import dataclass

from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import read_graph, require_changed, to_bytes
from optimization.quantize.onnxruntime_door import prepared, weight_only_quantized

BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class WeightOnly:
    bits: int = 4  # 4 or 8
    block_size: int = 32  # weights of a column that share a scale
    min_values: int = 65_536  # matrices with fewer weights stay in float

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise QuantizationError(f"bits is {self.bits}: it is 4 or 8")
        if self.block_size not in BLOCK_SIZES:
            raise QuantizationError(f"block_size is {self.block_size}: it is {', '.join(map(str, BLOCK_SIZES))}")
        if self.min_values < 1:
            raise QuantizationError(f"min_values is {self.min_values}: it must be at least 1")


def quantize_weights(content: bytes, choice: WeightOnly = WeightOnly()) -> bytes:
    """The float graph `content` with its large matrices in MatMulNBits; raises QuantizationError where it has none."""
    model = prepared(read_graph(content))
    made = weight_only_quantized(model, bits=choice.bits, block_size=choice.block_size, min_values=choice.min_values)
    require_changed(model, made, f"matrices of {choice.min_values} weights and more")
    return to_bytes(made)
