"""Check: whether an ONNX graph may be registered and served, before any runtime opens it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimization.graphs.parts import GraphError, nodes, parse
from optimization.graphs.precision import float_precision_of, precision_of
from optimization.graphs.soundness import require_sound
from training.encoding import TensorSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class CheckedGraph:
    """What was learned of a sound graph. `precision` is its storage, `float_precision` that of what is not quantized;
    `operators` are the types of all its nodes.
    """

    opset: int
    precision: str
    float_precision: str
    operators: frozenset[str]


def check_graph(content: bytes, input_spec: TensorSpec, output_spec: TensorSpec) -> CheckedGraph:
    """Raises GraphError, saying what is wrong, unless `content` is a sound graph that reads `input_spec` and answers
    `output_spec`.
    """
    model = parse(content)
    opset = require_sound(model)
    _require_signature(model, input_spec, output_spec)
    operators = frozenset(node.op_type for node in nodes(model))
    return CheckedGraph(opset, precision_of(model), float_precision_of(model), operators)


def _require_signature(model: "onnx.ModelProto", input_spec: TensorSpec, output_spec: TensorSpec) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in weights}
    outputs = {value.name: value for value in model.graph.output}
    if list(inputs) != [input_spec.name] or output_spec.name not in outputs:
        raise GraphError(
            f"the graph reads {list(inputs)} and answers {list(outputs)}; its manifest says that it reads "
            f"{input_spec.name!r} and answers {output_spec.name!r}"
        )
    _require_tensor(inputs[input_spec.name], input_spec, "input")
    _require_tensor(outputs[output_spec.name], output_spec, "output")


def _require_tensor(value: "onnx.ValueInfoProto", spec: TensorSpec, side: str) -> None:
    import onnx

    tensor = value.type.tensor_type
    wanted = onnx.helper.np_dtype_to_tensor_dtype(spec.dtype)
    if tensor.elem_type != wanted:
        names = onnx.TensorProto.DataType
        raise GraphError(
            f"{side} {value.name!r} of the graph is {names.Name(tensor.elem_type)}, its manifest says "
            f"{names.Name(wanted)}"
        )
    if not tensor.HasField("shape"):
        if side == "input":
            raise GraphError(f"input {value.name!r} of the graph has no shape; its manifest says {list(spec.shape)}")
        return
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    # An axis that the graph leaves open takes any size; one that it fixes must be fixed so.
    if len(shape) != len(spec.shape) or any(
        found not in (-1, want) for found, want in zip(shape, spec.shape, strict=True)
    ):
        raise GraphError(
            f"{side} {value.name!r} of the graph has shape {shape}, its manifest says {list(spec.shape)}: "
            "export it with the dynamic axes (-1) left open"
        )
