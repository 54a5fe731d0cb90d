"""Leftover: which weights a quantized graph still holds in float."""

from dataclasses import dataclass

MIN_VALUES = 64  # below it are scales, biases of small layers and constants
# From which input on an operator reads scales.
FIRST_SCALE = {"QuantizeLinear": 1, "DequantizeLinear": 1, "MatMulNBits": 2}


@dataclass(frozen=True)
class FloatWeight:
    """A float constant of `size_bytes` and the operator that reads it."""

    name: str
    operation: str
    size_bytes: int


def float_weights(content: bytes) -> tuple[FloatWeight, ...]:
    """The float constants of 64 values and more in an ONNX graph, the largest first.

    What only scales 8-bit numbers back is no weight and does not count.
    """
    import onnx

    model = onnx.load_from_string(content)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    readers: dict[str, str] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if place < FIRST_SCALE.get(node.op_type, len(node.input)):
                readers.setdefault(name, node.op_type)
    found = [
        FloatWeight(tensor.name, readers[tensor.name], array.nbytes)
        for tensor in model.graph.initializer
        if tensor.data_type in floats and tensor.name in readers
        if (array := onnx.numpy_helper.to_array(tensor)).size >= MIN_VALUES
    ]
    return tuple(sorted(found, key=lambda weight: -weight.size_bytes))
