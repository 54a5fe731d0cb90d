"""Sensitivity: how much the logits suffer from the quantization of each layer, against the float graph.

Shape suffixes: N rows, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import WEIGHTED
from optimization.quantize.rows import feeds
from optimization.quantize.static import Calibrated
from optimization.runners.onnx_runtime import onnx_session
from training.encoding import Array, TensorSpec

Metric = Literal["kl", "mse"]
Probe = Literal["only", "all_but"]


@dataclass(frozen=True)
class Layer:
    """A weighted node and what follows it up to the next one: activations, additions, pooling.

    `name` is that of the first node, `weight` that of its weight (or again the node's, where it has none).
    """

    name: str
    weight: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Sensitivity:
    """`error` of the logits with this layer alone in INT8 (`only`), or with all layers but this one (`all_but`)."""

    layer: Layer
    error: float


class ErrorMeter:
    """Measures graphs by how far their logits are from the float graph's, on the same rows."""

    def __init__(self, content: bytes, rows: Array, spec: TensorSpec, metric: Metric) -> None:
        self._rows, self._spec, self._metric = rows, spec, metric
        self._float_NC = self._logits(content)

    def __call__(self, model: Any) -> float:
        """The mean over rows of the Kullback-Leibler divergence of the answers (nats), or of squared differences."""
        return logit_error(self._float_NC, self._logits(model.SerializeToString()), self._metric)

    def _logits(self, content: bytes) -> NDArray[np.float64]:
        try:
            session = onnx_session(content)
            parts = [session.run(None, dict(feed))[0] for feed in feeds(self._rows, self._spec.name)]
        except Exception as error:  # ONNX Runtime's errors have no root of their own
            raise QuantizationError(f"ONNX Runtime cannot run this graph: {error}") from error
        logits_NC: NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
        return logits_NC


def logit_error(float_NC: NDArray[np.float64], quantized_NC: NDArray[np.float64], metric: Metric) -> float:
    if metric == "mse":
        return float(((float_NC - quantized_NC) ** 2).mean())
    float_NC, quantized_NC = (_log_softmax(logits_NC) for logits_NC in (float_NC, quantized_NC))
    return float((np.exp(float_NC) * (float_NC - quantized_NC)).sum(axis=1).mean())


def layers(calibrated: Calibrated) -> tuple[Layer, ...]:
    """The layers that would be quantized, in the order in which they run."""
    constants = {tensor.name for tensor in calibrated.model.graph.initializer}
    found: list[tuple[str, str, list[str]]] = []
    for node in calibrated.nodes():
        is_weighted = node.op_type in WEIGHTED and node.input[1] in constants
        if is_weighted or not found:
            found.append((node.name, node.input[1] if is_weighted else node.name, []))
        found[-1][2].append(node.name)
    return tuple(Layer(name, weight, tuple(nodes)) for name, weight, nodes in found)


def sensitivities(calibrated: Calibrated, meter: ErrorMeter, probe: Probe) -> tuple[Sensitivity, ...]:
    """One a layer, in the order in which they run."""
    every = layers(calibrated)
    names = [name for layer in every for name in layer.nodes]
    found = []
    for layer in every:
        kept = layer.nodes if probe == "all_but" else [name for name in names if name not in layer.nodes]
        found.append(Sensitivity(layer, meter(calibrated.quantized(kept))))
    return tuple(found)


def worst_first(found: Sequence[Sensitivity], probe: Probe) -> tuple[Layer, ...]:
    """Alone the worst layer has the greatest error; left out, it leaves the others with the least."""
    return tuple(one.layer for one in sorted(found, key=lambda one: one.error, reverse=probe == "only"))


def _log_softmax(logits_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted_NC: NDArray[np.float64] = logits_NC - logits_NC.max(axis=1, keepdims=True)
    log_p_NC: NDArray[np.float64] = shifted_NC - np.log(np.exp(shifted_NC).sum(axis=1, keepdims=True))
    return log_p_NC
