"""Finite: whether the constants of a graph are numbers that it can compute with.

A value that is no number is always an error. An infinity is one in a weight, and none where it says "never" or "no
bound": refusing every infinity would refuse every exported attention mask, and letting a lone one through, an overflown
scale.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from optimization.graphs.parts import GraphError, constants, nodes
from optimization.graphs.precision import PRODUCTS
from training.encoding import Array

if TYPE_CHECKING:
    import onnx

# Where an infinity would be a broken weight, scale or statistic.
_WEIGHTED = PRODUCTS | {
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "PRelu"),
    *("QuantizeLinear", "DequantizeLinear", "Mul", "Div"),
}
# Where an infinity is a bound, or what something is compared with.
_BOUNDED = frozenset(
    ("Clip", "Min", "Max", "Where", "Pad", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal")
)


def require_finite(model: "onnx.ModelProto") -> None:
    """Raises GraphError naming the constants that hold what is no finite number, or cannot be read.

    An infinity is let through where it has a meaning: in a mask (all values 0 or -inf, as attention adds to its
    scores) that nothing multiplies by, and as a bound of Clip, Where and their like.
    """
    readers: dict[str, set[str]] = {}
    for node in nodes(model):
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    broken = [name for name, values in _numbers(model) if not _is_sound(values, readers.get(name, set()))]
    if broken:
        raise GraphError(
            f"{len(broken)} weights hold values that are not finite: {', '.join(broken[:5])}; the training diverged "
            "or the file is broken, use another checkpoint"
        )


def _numbers(model: "onnx.ModelProto") -> Iterator[tuple[str, Array]]:
    """Name and values of every constant of floats, however a node holds it."""
    for name, tensor in constants(model):
        values = _floats(name, tensor)
        if values is not None:
            yield name, values
    for node in nodes(model):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name in ("value_float", "value_floats"):
                    yield node.output[0], np.array([attribute.f, *attribute.floats])


def _is_sound(values: Array, readers: set[str]) -> bool:
    if np.isfinite(values).all():
        return True
    if np.isnan(values).any():
        return False
    is_mask = bool(((values == 0) | (values == -np.inf)).all())
    return (is_mask and not readers & _WEIGHTED) or (bool(readers) and readers <= _BOUNDED)


def _floats(name: str, tensor: "onnx.TensorProto") -> Array | None:
    """Its values where they are floats; None where they are integers."""
    import onnx

    kinds = onnx.TensorProto
    wide = (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16)
    narrow = (kinds.BFLOAT16, kinds.FLOAT8E4M3FN, kinds.FLOAT8E4M3FNUZ, kinds.FLOAT8E5M2, kinds.FLOAT8E5M2FNUZ)
    if tensor.data_type not in (*wide, *narrow):
        return None
    try:
        values: Array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise GraphError(f"the weight {name!r} cannot be read: {error}") from error
    return values if tensor.data_type in wide else values.astype(np.float32)
