"""An ONNX graph from elsewhere, examined before anything runs it, and given the tensors that its Task speaks of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optimization.adopt.graft import Scaling, graft, tensor_kind
from optimization.graphs.parts import GraphError, nodes
from optimization.quantize.graph import is_quantized
from training.encoding import Encoding, ImageEncoding, TensorSpec, output_spec

# Per-channel quantization came with 13.
MIN_OPSET = 13
STANDARD_DOMAINS = ("", "ai.onnx")
_NAMES_SHOWN = 5


def read_graph(path: Path, encoding: Encoding, scaling: Scaling | None = None) -> bytes:
    """The graph at `path`, serialized: one input as `encoding` makes it, float32 logits [B, classes] by their own name.

    A graph that reads float pixels gets the `scaling` for them in front. Raises GraphError where the file is no sound
    graph of standard operators in float32, or reads or answers something else than the Encoding wants.
    """
    import onnx

    model = _parse(path)
    try:
        _check_self_contained(model)
        _check_operators(model)
        _check_weights(model)
        _sound(model)
        given = _only_input(model, encoding, scaling)
        answer = _only_output(model, encoding)
        made = graft(model, given, answer, encoding, scaling)
        _sound(made)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    content: bytes = onnx.ModelProto.SerializeToString(made)
    return content


def _parse(path: Path) -> Any:
    import onnx

    if not path.is_file():
        raise GraphError(f"there is no graph at {path}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's own
        raise GraphError(f"{path} is no ONNX file: {error}") from error
    if not model.graph.node or not model.opset_import:
        raise GraphError(f"{path} is no ONNX file: it holds no graph")
    return model


def _sound(model: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and the shape inference raise types of their own
        raise GraphError(f"it is no sound graph: {' '.join(str(error).split())[:300]}") from error


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Every constant by a name: of the graph, of the graphs inside of it, and of its nodes."""
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in nodes(model):
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                if tensor.dims or tensor.data_type:
                    yield tensor.name or node.name or node.op_type, tensor
            for inner in (attribute.g, *attribute.graphs):
                for tensor in inner.initializer:
                    yield tensor.name, tensor


def _check_self_contained(model: Any) -> None:
    from onnx import TensorProto

    outside = [name for name, tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    if outside:
        raise GraphError(
            f"the weights {_some(outside)} lie in other files: save the graph with its weights inside "
            "(onnx.save_model(..., save_as_external_data=False))"
        )


def _check_operators(model: Any) -> None:
    import onnx

    opset = next((one.version for one in model.opset_import if one.domain in STANDARD_DOMAINS), 0)
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise GraphError(
            f"its opset is {opset}: it must lie in {MIN_OPSET}..{newest}; export it anew, or convert it "
            "(onnx.version_converter.convert_version)"
        )
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


def _check_weights(model: Any) -> None:
    from onnx import TensorProto, numpy_helper

    low = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    for name, tensor in _tensors(model):
        if tensor.data_type in low:
            raise GraphError(f"the weights {name!r} are of 16 bits: bring the graph in float32")
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE):
            try:
                finite = bool(np.isfinite(numpy_helper.to_array(tensor)).all())
            except ValueError as error:  # fewer bytes than its shape asks for
                raise GraphError(f"the weights {name!r} cannot be read: {error}") from error
            if not finite:
                raise GraphError(f"the weights {name!r} hold values that are not finite")


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
