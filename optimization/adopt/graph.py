"""An ONNX graph from elsewhere, examined before anything runs it, and given the tensors that its Task speaks of."""

from pathlib import Path
from typing import Any

from optimization.adopt.graft import Scaling, graft, tensor_kind
from optimization.graphs.parts import GraphError, constants, nodes, parse
from optimization.graphs.soundness import STANDARD_DOMAINS, require_sound
from optimization.quantize.graph import is_quantized
from training.encoding import Encoding, ImageEncoding, TensorSpec, output_spec

_NAMES_SHOWN = 5


def read_graph(path: Path, encoding: Encoding, scaling: Scaling | None = None) -> bytes:
    """The graph at `path`, serialized: one input as `encoding` makes it, float32 logits [B, classes] by their own name.

    A graph that reads float pixels gets the `scaling` for them in front. Raises GraphError where the file is no sound
    graph of standard operators in float32, or reads or answers something else than the Encoding wants.
    """
    import onnx

    if not path.is_file():
        raise GraphError(f"there is no graph at {path}")
    try:
        model = parse(path.read_bytes())
        require_sound(model)
        _require_float32(model)
        _require_shapes(model)
        given = _only_input(model, encoding, scaling)
        answer = _only_output(model, encoding)
        made = graft(model, given, answer, encoding, scaling)
        _require_shapes(made)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    content: bytes = onnx.ModelProto.SerializeToString(made)
    return content


def _require_float32(model: Any) -> None:
    """A build makes smaller graphs by itself, and ONNX's own operators are those that all its passes know."""
    from onnx import TensorProto

    own = {(function.domain, function.name) for function in model.functions}
    foreign = {
        f"{node.domain}::{node.op_type}"
        for node in nodes(model)
        if node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in own
    }
    if foreign:
        raise GraphError(f"it has operators that are not ONNX's own: {_some(sorted(foreign))}; export it without them")
    quantized = sorted({node.op_type for node in nodes(model) if is_quantized(node.op_type)})
    if quantized:
        raise GraphError(f"it is quantized ({_some(quantized)}): bring it in float32, a build quantizes it itself")
    for name, tensor in constants(model):
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            raise GraphError(f"the weights {name!r} are of 16 bits: bring the graph in float32")


def _require_shapes(model: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and the shape inference raise types of their own
        raise GraphError(f"its shapes cannot be told: {' '.join(str(error).split())[:300]}") from error


def _only_input(model: Any, encoding: Encoding, scaling: Scaling | None) -> Any:
    """The one input, whose type and shape fit what `encoding` makes, or what `scaling` makes of that."""
    from onnx import TensorProto

    spec = encoding.input_spec
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    if len(inputs) != 1:
        raise GraphError(f"it reads {_some([i.name for i in inputs])}: it must read one tensor, {_told(spec)}")
    kind = inputs[0].type.tensor_type.elem_type
    wanted = tensor_kind(spec)
    if scaling is not None:
        if not isinstance(encoding, ImageEncoding):
            raise GraphError("mean and std are of pixels: leave them out for texts")
        for name, values in (("mean", scaling.mean), ("std", scaling.std)):
            if len(values) not in (1, encoding.channels):
                raise GraphError(f"{name} is {list(values)}: give one number, or one a channel of {encoding.channels}")
        wanted = TensorProto.FLOAT
    if kind != wanted:
        advice = ""
        if isinstance(encoding, ImageEncoding) and kind == TensorProto.FLOAT:
            advice = ": say by which mean and std of pixels from 0 to 1 it was trained; they become part of it"
        elif scaling is not None:
            advice = ": leave out mean and std, it scales pixels itself"
        raise GraphError(
            f"it reads {TensorProto.DataType.Name(kind)} where {TensorProto.DataType.Name(wanted)} comes{advice}"
        )
    _check_axes(_axes(inputs[0]), spec, "reads")
    return inputs[0]


def _only_output(model: Any, encoding: Encoding) -> Any:
    from onnx import TensorProto

    spec = output_spec(encoding)
    if len(model.graph.output) != 1:
        names = [value.name for value in model.graph.output]
        raise GraphError(f"it answers {_some(names)}: it must answer one tensor, {_told(spec)}")
    answer = model.graph.output[0]
    kind = answer.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        raise GraphError(f"it answers {TensorProto.DataType.Name(kind)}: logits are FLOAT, {_told(spec)}")
    _check_axes(_axes(answer), spec, "answers")
    return answer


def _axes(value: Any) -> list[int | None]:
    """The sizes, None for a dynamic one. A sound graph tells the shapes of its inputs and outputs."""
    return [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]


def _check_axes(axes: list[int | None], spec: TensorSpec, verb: str) -> None:
    if len(axes) != len(spec.shape):
        raise GraphError(f"it {verb} {axes}, {len(axes)} axes, where {_told(spec)} is wanted")
    for number, (axis, wanted) in enumerate(zip(axes, spec.shape, strict=True)):
        if wanted == -1 and axis is not None:
            raise GraphError(f"axis {number} of what it {verb} is fixed at {axis}: export it with a dynamic axis there")
        if wanted != -1 and axis not in (None, wanted):
            raise GraphError(f"it {verb} {axes}, where {_told(spec)} is wanted")


def _told(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)} (-1: dynamic)"


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:_NAMES_SHOWN]) + (" ..." if len(names) > _NAMES_SHOWN else "")
