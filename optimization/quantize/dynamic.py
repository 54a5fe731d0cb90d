"""Dynamic INT8: 8-bit weights, and activations that are scaled as they come (ONNX -> ONNX). It needs no rows.

For texts: what LSTMs and transformers hold of weights, the embeddings among them. Convolutions are left in float,
since ONNX Runtime's dynamic ones are slower than its float ones, and so are GRUs and plain RNNs, for which it has none.
"""

from dataclasses import dataclass

from optimization.quantize.cpu import fastest_types
from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import read_graph, require_changed, to_bytes
from optimization.quantize.onnxruntime_door import dynamically_quantized, prepared

# A Gemm becomes a MatMul and an Add on the way; Gather is how an embedding is looked up.
DYNAMIC_OPS = ("MatMul", "LSTM", "Gather", "Attention", "EmbedLayerNormalization")


@dataclass(frozen=True)
class DynamicInt8:
    per_channel: bool = False  # a scale for each column of a matrix
    reduce_range: bool | None = None  # weights of 7 bits; None: where this CPU's sums of products could saturate
    ops: tuple[str, ...] = DYNAMIC_OPS  # operators whose weights become INT8 (MatMul stands for Gemm too)
    float_nodes: tuple[str, ...] = ()  # nodes that stay in float, by name

    def __post_init__(self) -> None:
        for name in ("ops", "float_nodes"):  # JSON has lists alone
            object.__setattr__(self, name, tuple(getattr(self, name)))
        unknown = [name for name in self.ops if name not in DYNAMIC_OPS]
        if unknown or not self.ops:
            raise QuantizationError(
                f"ops are {', '.join(self.ops) or 'none'}; a dynamic INT8 form have {', '.join(DYNAMIC_OPS)}"
            )

    @property
    def reduces_range(self) -> bool:
        return fastest_types().reduce_range if self.reduce_range is None else self.reduce_range


def quantize_dynamic(content: bytes, choice: DynamicInt8 = DynamicInt8()) -> bytes:
    """The float graph `content` with INT8 weights; `float_weights` says which are left.

    Raises QuantizationError where the graph has none that can become so.
    """
    model = prepared(read_graph(content))
    made = dynamically_quantized(
        model,
        per_channel=choice.per_channel,
        reduce_range=choice.reduces_range,
        ops=choice.ops,
        float_nodes=choice.float_nodes,
    )
    require_changed(model, made, "a dynamic INT8 form here")
    return to_bytes(made)
