"""What every pass does with a graph: read and examine it, prepare it, and give it back as bytes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from optimization.graphs.parts import nodes
from optimization.quantize.error import QuantizationError

# QuantizeLinear has an axis, so scales a channel, from this opset on.
MIN_OPSET = 13
RUNTIME_DOMAIN = "com.microsoft"
# Operators that only a quantized graph has; of ONNX Runtime's own they all say so in their names.
QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits", "DynamicQuantize")
# Operators whose second input is a weight.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NAMED = 5


def read_graph(content: bytes) -> Any:
    """The ONNX model (a ModelProto) of `content`, found fit to be quantized.

    Raises QuantizationError for what is no ONNX, an opset outside of 13 to what the installed onnx knows, operators
    that neither ONNX nor ONNX Runtime has, weights that are not finite, and a graph that is quantized already.
    """
    import onnx

    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=False)
    except Exception as error:  # protobuf and onnx raise types of their own, with no common root
        _require_known(content)
        raise QuantizationError(f"this is no sound ONNX graph: {error}") from error
    _require_opset(model)
    _require_operators(model)
    quantized = sorted({node.op_type for node in nodes(model) if is_quantized(node.op_type)})
    if quantized:
        raise QuantizationError(
            f"the graph is quantized already: it has {', '.join(quantized)}; give the float graph that it was made from"
        )
    broken = [name for name, array in _floats(model) if not _is_finite(array)]
    if broken:
        raise QuantizationError(f"the weights {_some(broken)} hold values that are not finite: train the model anew")
    return model


def to_bytes(model: Any) -> bytes:
    """Serialized, without what exporters note of their own: in a small INT8 graph that is a sixth of the file."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del graph.value_info[:]
    content: bytes = model.SerializeToString()
    return content


def is_quantized(operation: str) -> bool:
    return operation.startswith((*QUANTIZED_OPS, "QLinear", "QGemm"))


def require_changed(before: Any, after: Any, what: str) -> None:
    """Raises QuantizationError where no operator of `after` is a quantized one."""
    if not any(is_quantized(node.op_type) for node in nodes(after)):
        operations = sorted({node.op_type for node in nodes(before)})
        raise QuantizationError(f"nothing of this graph has {what}: it is made of {', '.join(operations)}")


def free_outputs(model: Any) -> None:
    """Give the graph's outputs as they were before a last QuantizeLinear and DequantizeLinear, which are taken out.

    256 levels of logits would tie answers' confidences, on which a cascade decides; and the kernels of the last layer
    answer in float32 as fast.
    """
    made_by = {output: node for node in model.graph.node for output in node.output}
    for output in model.graph.output:
        back = made_by.get(output.name)
        there = made_by.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
        if there is None or there.op_type != "QuantizeLinear" or there.input[0] not in made_by:
            continue
        source = there.input[0]
        model.graph.node.remove(back)
        if not any(there.output[0] in node.input for node in model.graph.node):
            model.graph.node.remove(there)
        for node in model.graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == source:
                        names[place] = output.name
    _forget_unused(model)


def shield_float_layers(model: Any) -> None:
    """Keep ONNX Runtime from quantizing by itself the layers that are to stay in float.

    When it opens a graph it gives 8-bit weights, with one scale for all channels, to every convolution or Gemm that
    lies between a DequantizeLinear and a QuantizeLinear ("WeightBiasQuantization"). A Max that changes nothing, which
    no optimizer takes away, stands between.
    """
    import onnx

    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    lowest = onnx.numpy_helper.from_array(np.array(np.finfo(np.float32).min), "lowest_float32")
    for place, node in reversed(list(enumerate(model.graph.node))):
        is_float_layer = node.op_type in WEIGHTED and node.input[1] in constants
        if not is_float_layer or made_by.get(node.input[0]) != "DequantizeLinear":
            continue
        if lowest.name not in constants:
            model.graph.initializer.append(lowest)
            constants.add(lowest.name)
        shielded = f"{node.input[0]}_to_{node.output[0]}"
        shield = onnx.helper.make_node("Max", [node.input[0], lowest.name], [shielded], f"shield_of_{node.name}")
        node.input[0] = shielded
        model.graph.node.insert(place, shield)


def _forget_unused(model: Any) -> None:
    used = {name for node in nodes(model) for name in node.input} | {output.name for output in model.graph.output}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def _require_opset(model: Any) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not MIN_OPSET <= versions[0] <= newest:
        raise QuantizationError(
            f"the graph is of opset {', '.join(map(str, versions)) or 'none'}; this takes {MIN_OPSET} to {newest}: "
            "export it anew, or convert it by onnx.version_converter"
        )


def _require_operators(model: Any) -> None:
    import onnx

    unknown = {
        f"{node.domain or 'ai.onnx'}.{node.op_type}"
        for node in nodes(model)
        if node.domain != RUNTIME_DOMAIN and not onnx.defs.has(node.op_type, node.domain)
    }
    if unknown:
        raise QuantizationError(
            f"the graph has operators that neither ONNX nor ONNX Runtime knows: {', '.join(sorted(unknown))}"
        )


def _require_known(content: bytes) -> None:
    """Say of a graph that the checker refuses what is the matter, where it is the opset or an operator."""
    import onnx

    try:
        model = onnx.load_from_string(content)
    except Exception:  # it is no protobuf: the caller says so
        return
    if model.graph.node:
        _require_opset(model)
        _require_operators(model)


def _floats(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and array of each float constant."""
    import onnx

    tensors = list(model.graph.initializer)
    for node in nodes(model):
        if node.op_type == "Constant":
            tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for tensor in tensors:
        if tensor.data_type in floats:
            yield tensor.name or "of a Constant", onnx.numpy_helper.to_array(tensor).astype(np.float64)


def _is_finite(array: Any) -> bool:
    """A lone infinity is no weight: attention masks by it."""
    return bool(np.isfinite(array).all()) or (array.size == 1 and not np.isnan(array).any())


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
