"""Static INT8: 8-bit weights and activations, whose ranges are set before by calibration rows (ONNX -> ONNX, QDQ)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optimization.quantize.cpu import IntegerType, fastest_types
from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import free_outputs, read_graph, require_changed, shield_float_layers, to_bytes
from optimization.quantize.onnxruntime_door import activations_of, prepared, static_ops, with_qdq
from optimization.quantize.ranges import Calibrator, Range, find_ranges
from optimization.quantize.rows import feeds, require_rows
from training.encoding import Array, TensorSpec


@dataclass(frozen=True)
class StaticInt8:
    """Names of nodes are those of the prepared graph, which `layers` of the mixed precision lists too."""

    calibrator: Calibrator = "minmax"
    percentile: float = 99.99  # of a tensor's values that its range keeps; `percentile` alone
    per_channel: bool = True  # a scale for each output channel of a weight
    activations: Literal["auto", "uint8", "int8"] = "auto"  # auto: what this CPU is fastest with
    weights: IntegerType = "int8"  # uint8 goes with uint8 activations alone
    reduce_range: bool | None = None  # weights of 7 bits; None: where this CPU's sums of products could saturate
    symmetric: bool = False  # activations with 0 in the middle of their range, as TensorRT wants them
    float_ops: tuple[str, ...] = ()  # operators that stay in float
    float_nodes: tuple[str, ...] = ()  # nodes that stay in float, by name

    def __post_init__(self) -> None:
        if self.calibrator not in ("minmax", "entropy", "percentile"):
            raise QuantizationError(f"calibrator is {self.calibrator!r}; it is minmax, entropy or percentile")
        if not 0 < self.percentile <= 100:
            raise QuantizationError(f"percentile is {self.percentile}: it must lie in 0 < x <= 100")
        if self.activations not in ("auto", "uint8", "int8") or self.weights not in ("uint8", "int8"):
            raise QuantizationError(f"types are {self.activations!r} and {self.weights!r}; each is uint8 or int8")
        if self.weights == "uint8" and self.activation_type != "uint8":
            raise QuantizationError("ONNX Runtime takes unsigned weights with unsigned activations alone: use int8")
        for name in ("float_ops", "float_nodes"):  # JSON has lists alone
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def activation_type(self) -> IntegerType:
        return fastest_types().activations if self.activations == "auto" else self.activations

    @property
    def reduces_range(self) -> bool:
        if self.reduce_range is not None:
            return self.reduce_range
        return self.activation_type == "uint8" and fastest_types().reduce_range


def quantize_static(content: bytes, rows: Array, spec: TensorSpec, choice: StaticInt8 = StaticInt8()) -> bytes:
    """The float graph `content` in INT8; `rows` are inputs of the calibration split, and of no other.

    Logits stay float32, as the manifest says. Raises QuantizationError where the rows do not fit the graph or the graph
    cannot be quantized.
    """
    return to_bytes(Calibrated(content, rows, spec, choice).quantized())


class Calibrated:
    """A float graph made ready, with its ranges: what can be quantized in many ways after one look at the rows."""

    def __init__(self, content: bytes, rows: Array, spec: TensorSpec, choice: StaticInt8) -> None:
        require_rows(rows, spec)
        self.choice = choice
        self.model = prepared(read_graph(content))
        self.ops = _chosen_ops(self.model, choice)
        self.ranges: Mapping[str, Range] = find_ranges(
            lambda: activations_of(self.model, self.tensors(), feeds(rows, spec.name)),
            choice.calibrator,
            choice.percentile,
        )

    def nodes(self) -> list[Any]:
        """The nodes that `choice` quantizes, in the order in which they run."""
        kept = set(self.choice.float_nodes)
        return [node for node in self.model.graph.node if node.op_type in self.ops and node.name not in kept]

    def tensors(self) -> list[str]:
        """The float activations that go into or come out of the nodes to be quantized."""
        import onnx

        graph = self.model.graph
        constants = {tensor.name for tensor in graph.initializer}
        floats = {
            value.name
            for value in (*graph.value_info, *graph.input, *graph.output)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        touched = [name for node in self.nodes() for name in (*node.input, *node.output)]
        return [name for name in dict.fromkeys(touched) if name in floats - constants]

    def quantized(self, float_nodes: Sequence[str] = ()) -> Any:
        """The model in INT8, `float_nodes` kept in float beside those that the choice names."""
        choice = self.choice
        made = with_qdq(
            self.model,
            self.ranges,
            activations=choice.activation_type,
            weights=choice.weights,
            per_channel=choice.per_channel,
            reduce_range=choice.reduces_range,
            symmetric=choice.symmetric,
            ops=self.ops,
            float_nodes=(*choice.float_nodes, *float_nodes),
        )
        free_outputs(made)
        shield_float_layers(made)
        if not float_nodes:
            require_changed(self.model, made, "a static INT8 form here")
        return made


def _chosen_ops(model: Any, choice: StaticInt8) -> tuple[str, ...]:
    """Raises QuantizationError where the choice names an operator or a node that the graph has not."""
    present = {node.op_type for node in model.graph.node}
    names = {node.name for node in model.graph.node}
    for kept, there in ((choice.float_ops, present), (choice.float_nodes, names)):
        missing = [name for name in kept if name not in there]
        if missing:
            raise QuantizationError(
                f"{', '.join(missing)} cannot stay in float: the graph has no such operator or node"
            )
    return tuple(name for name in static_ops() if name not in choice.float_ops)
