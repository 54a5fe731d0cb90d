"""Soundness: the one rule for what an ONNX graph must be, whoever brings it: an adoption, a pass or a Runner.

What is refused when a graph is opened to serve is thereby refused before anything is made of it. Who needs more asks
for it besides: an adoption wants float32 and ONNX's own operators, a quantizer what is not quantized yet.
"""

from typing import TYPE_CHECKING

from optimization.graphs.finite import require_finite
from optimization.graphs.parts import GraphError, constants, nodes

if TYPE_CHECKING:
    import onnx

# From 13 on, QuantizeLinear has a scale a channel; 26 is the last that ONNX Runtime 1.31 is released for.
MIN_OPSET, MAX_OPSET = 13, 26
STANDARD_DOMAINS = ("", "ai.onnx")
# ONNX's own operators, and those that ONNX Runtime's quantizer and optimizer write.
DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")
MAX_NAMED = 5


def require_sound(model: "onnx.ModelProto") -> int:
    """The opset of a graph that holds all its weights, all of them finite, has an opset in MIN_OPSET..MAX_OPSET, knows
    its operators and passes ONNX's checker; raises GraphError, saying what is wrong and what to do, of any other.
    """
    import onnx

    _require_no_files(model)
    opset = _opset(model)
    _require_known_operators(model, opset)
    require_finite(model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"the graph is malformed: {error}") from error
    return opset


def _require_no_files(model: "onnx.ModelProto") -> None:
    import onnx

    outside = [name for name, tensor in constants(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise GraphError(
            f"{len(outside)} weights lie in other files ({', '.join(outside[:MAX_NAMED])}): an Artifact's graph holds "
            "all of its weights; save it without external data (onnx.save_model(..., save_as_external_data=False))"
        )


def _opset(model: "onnx.ModelProto") -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
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
        elif domain in STANDARD_DOMAINS:
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
