"""A float32 graph in bfloat16: its constants, its casts and its edges; between them the operators stay as they are."""

from typing import Any

from optimization.quantize.error import QuantizationError

OPSET = 22  # the first in which convolutions and poolings take bfloat16


def to_bfloat16(model: Any) -> Any:
    """A copy of a float32 ModelProto whose inner tensors are bfloat16; its inputs and outputs keep their types.

    Raises QuantizationError naming the operators that ONNX does not define on bfloat16.
    """
    import onnx

    try:
        made = onnx.version_converter.convert_version(model, max(OPSET, _opset(model)))
    except Exception as error:  # the converter's own, with no root in common
        raise QuantizationError(f"the graph cannot be brought to opset {OPSET}, which bf16 needs: {error}") from error
    made.ir_version = max(made.ir_version, model.ir_version)
    graph = made.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        _convert(tensor)
    for node in graph.node:
        _convert_attributes(node)
    for given in graph.input:
        if given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            inner = f"{given.name}_bf16"
            _rename(graph.node, given.name, inner)
            graph.node.insert(0, onnx.helper.make_node("Cast", [given.name], [inner], to=onnx.TensorProto.BFLOAT16))
    for answer in graph.output:
        if answer.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            inner = f"{answer.name}_bf16"
            _rename(graph.node, answer.name, inner)
            graph.node.append(onnx.helper.make_node("Cast", [inner], [answer.name], to=onnx.TensorProto.FLOAT))
    lacking = _without_bfloat16(made)
    if lacking:
        raise QuantizationError(f"ONNX has no bf16 form of {', '.join(lacking)}: choose fp16")
    try:
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # checker and shape inference raise types of their own
        raise QuantizationError(f"the graph does not hold together in bf16: {error}") from error
    return made


def _without_bfloat16(model: Any) -> list[str]:
    """The operators that are given bfloat16 and not defined on it; no checker of onnx looks."""
    import onnx

    graph, opset = onnx.shape_inference.infer_shapes(model).graph, _opset(model)
    narrow = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
    } | {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.BFLOAT16}
    found = set()
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        schema = onnx.defs.get_schema(node.op_type, opset)
        allowed = {limit.type_param_str: limit.allowed_type_strs for limit in schema.type_constraints}
        for place, name in enumerate(node.input):
            formal = schema.inputs[min(place, len(schema.inputs) - 1)].type_str
            if name in narrow and "tensor(bfloat16)" not in allowed.get(formal, [formal]):
                found.add(node.op_type)
    return sorted(found)


def _opset(model: Any) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _convert(tensor: Any) -> None:
    import ml_dtypes
    import onnx

    if tensor.data_type == onnx.TensorProto.FLOAT:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(ml_dtypes.bfloat16), tensor.name))


def _convert_attributes(node: Any) -> None:
    """What a node says of float32: constants, and what it casts to."""
    import onnx

    for attribute in node.attribute:
        if attribute.HasField("t"):
            _convert(attribute.t)
        elif attribute.name in ("to", "dtype") and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.BFLOAT16


def _rename(nodes: Any, old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
