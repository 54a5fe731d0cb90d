"""The parts of an ONNX model, wherever they stand: subgraphs and functions included."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


class GraphError(ValueError):
    """An ONNX graph that Tandem does not register, serve or build from."""


def parse(content: bytes) -> "onnx.ModelProto":
    """Raises GraphError where `content` is no ONNX model with a graph."""
    import onnx

    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's, whose class its own packages name differently
        raise GraphError(f"these {len(content)} bytes are no ONNX model: {error}") from error
    # Protobuf reads many bytes that are something else as a message with nothing in it.
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise GraphError(f"these {len(content)} bytes are no ONNX model: they hold no graph")
    return model


def nodes(model: "onnx.ModelProto") -> Iterator["onnx.NodeProto"]:
    """Every node of the graph, of its subgraphs and of the model's own functions."""
    pending = [model.graph.node, *(function.node for function in model.functions)]
    while pending:
        for node in pending.pop():
            yield node
            pending += [graph.node for graph in _subgraphs(node)]


def constants(model: "onnx.ModelProto") -> Iterator[tuple[str, "onnx.TensorProto"]]:
    """Name and value of every initializer, and of every Constant or ConstantOfShape node that holds a tensor."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        yield from ((sparse.values.name, sparse.values) for sparse in graph.sparse_initializer)
        graphs += [inner for node in graph.node for inner in _subgraphs(node)]
    for node in nodes(model):
        if node.op_type in ("Constant", "ConstantOfShape"):
            yield from ((node.output[0], attribute.t) for attribute in node.attribute if attribute.HasField("t"))
            yield from (
                (node.output[0], attribute.sparse_tensor.values)
                for attribute in node.attribute
                if attribute.HasField("sparse_tensor")
            )


def _subgraphs(node: "onnx.NodeProto") -> Iterator["onnx.GraphProto"]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
