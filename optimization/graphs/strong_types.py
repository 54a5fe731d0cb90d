"""Strong types: whether TensorRT, which takes every precision from the graph, can build what the graph says.

TensorRT's rules are those of its documentation (Developer Guide, "Strongly Typed Networks" and "Working with Quantized
Types", TensorRT 10 and 11) and of its ONNX parser's operator table.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from optimization.graphs.parts import GraphError, constants, nodes, parse
from optimization.graphs.precision import precision_of

if TYPE_CHECKING:
    import onnx

MAX_NAMED = 5


def check_strongly_typed(content: bytes, precision: str) -> None:
    """Raises GraphError, naming every rule that is broken, unless a strongly typed TensorRT engine of `content` has
    `precision`:

    - it is in the graph (Q/DQ for "int8" and "fp8"), not asked of the builder;
    - all operators are ONNX's own, and quantization is Q/DQ: symmetric, signed, biases in floats;
    - the operands of an operator have one type, so that no implicit cast could be meant;
    - uint8 only as an input that is cast at once; no type that TensorRT lacks.
    """
    model = parse(content)
    faults = [*_precision_faults(model, precision), *_operator_faults(model), *_quantizer_faults(model)]
    types = _tensor_types(model)
    faults += [*_type_faults(model, types), *_operand_faults(model, types)]
    if faults:
        raise GraphError(f"the graph is not strongly typed as TensorRT needs it: {'; '.join(faults)}")


def _precision_faults(model: "onnx.ModelProto", precision: str) -> Iterator[str]:
    stored = precision_of(model)
    if stored != precision:
        yield f"it is stored in {stored}, not in {precision}, and TensorRT takes the precision from the graph"
    operators = {node.op_type for node in nodes(model)}
    if precision in ("int8", "fp8") and not {"QuantizeLinear", "DequantizeLinear"} <= operators:
        yield f"{precision} needs QuantizeLinear and DequantizeLinear in the graph"


def _operator_faults(model: "onnx.ModelProto") -> Iterator[str]:
    integer = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    own = {(function.domain, function.name) for function in model.functions}
    other = {
        f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        for node in nodes(model)
        if (node.domain not in ("", "ai.onnx") or node.op_type in integer) and (node.domain, node.op_type) not in own
    }
    if other:
        yield f"TensorRT has no {_listed(other)}: quantize with Q/DQ alone"


def _quantizer_faults(model: "onnx.ModelProto") -> Iterator[str]:
    import onnx

    kinds = onnx.TensorProto
    held = dict(constants(model))
    shifted: set[str] = set()
    unsigned: set[str] = set()
    biases: set[str] = set()
    for node in nodes(model):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = held.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and zero.data_type in (kinds.UINT8, kinds.UINT16, kinds.INT16):
            unsigned.add(node.input[0])
        # Reading FP8 and INT4 zero points needs no arithmetic: zero is all bits zero in each.
        if zero is not None and np.any(onnx.numpy_helper.to_array(zero).astype(np.float32)):
            shifted.add(node.input[0])
        stored = held.get(node.input[0])
        if node.op_type == "DequantizeLinear" and stored is not None and stored.data_type == kinds.INT32:
            biases.add(node.input[0])
    if unsigned:
        yield f"{_listed(unsigned)} are quantized to a type that TensorRT lacks: quantize to signed 8 bits"
    if shifted:
        yield f"the zero points of {_listed(shifted)} are not 0: quantize symmetrically"
    if biases:
        yield f"the biases {_listed(biases)} are 32-bit integers: leave biases in floats"


def _tensor_types(model: "onnx.ModelProto") -> dict[str, int]:
    """ONNX's element type of each tensor of the outer graph whose type can be told."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=False)
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(f"the types of the graph contradict each other: {error}") from error
    graph = inferred.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {name: tensor.data_type for name, tensor in constants(inferred)}


def _type_faults(model: "onnx.ModelProto", types: dict[str, int]) -> Iterator[str]:
    import onnx

    kinds = onnx.TensorProto
    lacking = {kinds.DOUBLE, kinds.INT16, kinds.UINT16, kinds.UINT32, kinds.UINT64, kinds.COMPLEX64, kinds.COMPLEX128}
    absent = {name for name, kind in types.items() if kind in lacking}
    if absent:
        yield f"{_listed(absent)} have types that TensorRT lacks: cast them to FP32 or INT64"
    bytes_in = {value.name for value in model.graph.input if types.get(value.name) == kinds.UINT8}
    inside = {name for name, kind in types.items() if kind == kinds.UINT8} - bytes_in
    inside -= {node.input[2] for node in nodes(model) if len(node.input) > 2 and "Quantize" in node.op_type}
    computed = {node.op_type for node in nodes(model) if node.op_type != "Cast" and bytes_in.intersection(node.input)}
    if computed:
        yield f"the uint8 input is read by {_listed(computed)}: TensorRT wants it cast first"
    if inside:
        yield f"{_listed(inside)} are uint8, which TensorRT takes at the input alone"


def _operand_faults(model: "onnx.ModelProto", types: dict[str, int]) -> Iterator[str]:
    """Operators of the outer graph two of whose operands must have one type, and have two."""
    import onnx

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    names = onnx.TensorProto.DataType
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, ""):
            continue
        wanted = onnx.defs.get_schema(node.op_type, opset, "").inputs
        bound: dict[str, set[int]] = {}
        for place, name in enumerate(node.input):
            if name in types and wanted:
                bound.setdefault(wanted[min(place, len(wanted) - 1)].type_str, set()).add(types[name])
        for found in bound.values():
            if len(found) > 1:
                mixed = " and ".join(sorted(names.Name(kind) for kind in found))
                yield f"{node.op_type} ({', '.join(node.output)}) mixes {mixed}: put a Cast before it"


def _listed(found: set[str]) -> str:
    first = sorted(found)[:MAX_NAMED]
    return ", ".join(first) + (f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else "")
