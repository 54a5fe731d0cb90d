"""Precision: the number format that a graph is stored in, read off its operators and weights."""

from typing import TYPE_CHECKING

from optimization.graphs.parts import constants, nodes

if TYPE_CHECKING:
    import onnx

# Operators whose time is that of a network: what they multiply in is its precision.
PRODUCTS = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "LSTM", "GRU", "RNN", "Einsum")
)
# Integer arithmetic without a QuantizeLinear before it.
_INTEGER_OPERATORS = frozenset(
    (
        *("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
        *("DynamicQuantizeLSTM", "QGemm", "QAttention", "QEmbedLayerNormalization", "QMoE"),
    )
)
# Weights in blocks, of so many bits as their attribute `bits` says, or of four.
_BLOCK_OPERATORS = frozenset(("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized"))


def precision_of(model: "onnx.ModelProto") -> str:
    """The narrowest format of its products: "fp8", "int8", "int4", else what `float_precision_of` says.

    A graph counts as quantized where it quantizes what flows through it (Q/DQ, QLinear... and ...Integer operators) or
    where its weights pass a DequantizeLinear. Some layers may still be in floats.
    """
    import onnx

    kinds = onnx.TensorProto
    eights = {kinds.FLOAT8E4M3FN, kinds.FLOAT8E4M3FNUZ, kinds.FLOAT8E5M2, kinds.FLOAT8E5M2FNUZ}
    fours = {kinds.INT4, kinds.UINT4, kinds.FLOAT4E2M1}
    found = {node.op_type for node in nodes(model)}
    quantizes = {name for name in found if name.startswith("QLinear")} | (
        found & (_INTEGER_OPERATORS | {"QuantizeLinear", "DequantizeLinear"})
    )
    types = {tensor.data_type for _, tensor in constants(model)} if quantizes else set()
    if types & eights:
        return "fp8"
    if quantizes and not (types & fours and "QuantizeLinear" not in found):
        return "int8"
    if quantizes:
        return "int4"
    bits = {_bits(node) for node in nodes(model) if node.op_type in _BLOCK_OPERATORS}
    return ("int4" if min(bits) <= 4 else "int8") if bits else float_precision_of(model)


def _bits(node: "onnx.NodeProto") -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 4)


def float_precision_of(model: "onnx.ModelProto") -> str:
    """ "fp32", "fp16", "bf16" or "fp64": the float format that most bytes of its constants have; "fp32" without any."""
    import onnx

    kinds = onnx.TensorProto
    names: dict[int, str] = {kinds.FLOAT: "fp32", kinds.FLOAT16: "fp16", kinds.BFLOAT16: "bf16", kinds.DOUBLE: "fp64"}
    held = dict.fromkeys(names.values(), 0)
    for _, tensor in constants(model):
        if tensor.data_type in names:
            held[names[tensor.data_type]] += tensor.ByteSize()
    return max(held, key=lambda name: held[name])
