"""What every pass does with a graph: read and examine it, prepare it, and give it back as bytes."""

from typing import Any

import numpy as np

from optimization.graphs.parts import GraphError, nodes, parse
from optimization.graphs.soundness import require_sound
from optimization.quantize.error import QuantizationError

# Operators that only a quantized graph has; of ONNX Runtime's own they all say so in their names.
QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits", "DynamicQuantize")
# Operators whose second input is a weight.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def read_graph(content: bytes) -> Any:
    """The ONNX model (a ModelProto) of `content`, found fit to be quantized, with its own functions written out.

    Raises QuantizationError for what is no sound graph (`optimization.graphs.soundness`), and for one that is quantized
    already.
    """
    from onnx import inliner

    try:
        model = parse(content)
        require_sound(model)
    except GraphError as error:
        raise QuantizationError(str(error)) from error
    if model.functions:
        # Quantizers look at the nodes of the graph alone.
        model = inliner.inline_local_functions(model)
    quantized = sorted({node.op_type for node in nodes(model) if is_quantized(node.op_type)})
    if quantized:
        raise QuantizationError(
            f"the graph is quantized already: it has {', '.join(quantized)}; give the float graph that it was made from"
        )
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
