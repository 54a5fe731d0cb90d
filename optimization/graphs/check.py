"""Check: whether an ONNX graph may be registered and served, before any runtime opens it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimization.graphs.finite import require_finite
from optimization.graphs.parts import GraphError, constants, nodes, parse
from optimization.graphs.precision import float_precision_of, precision_of
from training.encoding import TensorSpec

if TYPE_CHECKING:
    import onnx

# From 13 on, QuantizeLinear has a scale a channel; 26 is the last that ONNX Runtime 1.31 is released for.
MIN_OPSET, MAX_OPSET = 13, 26
# ONNX's own operators, and those that ONNX Runtime's quantizer and optimizer write.
DOMAINS = ("", "ai.onnx", "com.microsoft")


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
    """Raises GraphError, saying what is wrong, unless `content` is a graph that holds all its finite weights, has an
    opset in MIN_OPSET..MAX_OPSET and operators that are known, reads `input_spec` and answers `output_spec`.
    """
    import onnx

    model = parse(content)
    _require_no_files(model)
    opset = _opset(model)
    _require_known_operators(model, opset)
    _require_signature(model, input_spec, output_spec)
    require_finite(model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"the graph is malformed: {error}") from error
    operators = frozenset(node.op_type for node in nodes(model))
    return CheckedGraph(opset, precision_of(model), float_precision_of(model), operators)


def _require_no_files(model: "onnx.ModelProto") -> None:
    import onnx

    outside = [name for name, tensor in constants(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise GraphError(
            f"{len(outside)} weights lie in other files ({', '.join(outside[:5])}): an Artifact's graph holds all of "
            "its weights; save it without external data"
        )


def _opset(model: "onnx.ModelProto") -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise GraphError(f"the graph imports {len(versions)} opsets of ONNX's own operators; it needs one")
    if not MIN_OPSET <= versions[0] <= MAX_OPSET:
        raise GraphError(
            f"the graph's opset is {versions[0]}; {MIN_OPSET} to {MAX_OPSET} are accepted: export it anew, or convert "
            "it with onnx.version_converter"
        )
    return int(versions[0])


def _require_known_operators(model: "onnx.ModelProto", opset: int) -> None:
    import onnx

    own = {(function.domain, function.name) for function in model.functions}
    used = dict.fromkeys((node.domain, node.op_type) for node in nodes(model))
    foreign, unknown = [], []
    for domain, operator in used:
        if (domain, operator) in own:
            continue
        if domain not in DOMAINS:
            foreign.append(f"{domain}:{operator}")
        elif domain in ("", "ai.onnx"):
            try:
                deprecated = onnx.defs.get_schema(operator, opset, "").deprecated
            except onnx.defs.SchemaError:
                deprecated = True
            if deprecated:
                unknown.append(operator)
    if foreign:
        raise GraphError(
            f"the graph uses operators of other makers, {', '.join(foreign)}: no runtime here has them; "
            "export the model with ONNX's own operators"
        )
    if unknown:
        raise GraphError(f"opset {opset} has no operator {', '.join(unknown)}: export the model for this opset")


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
