"""Mixed precision: static INT8 in which the layers that suffer most stay in float (ONNX -> ONNX)."""

from dataclasses import dataclass, field

from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import to_bytes
from optimization.quantize.sensitivity import (
    ErrorMeter,
    Layer,
    Metric,
    Probe,
    Sensitivity,
    layers,
    sensitivities,
    worst_first,
)
from optimization.quantize.static import Calibrated, StaticInt8
from training.encoding import Array, TensorSpec


@dataclass(frozen=True)
class MixedPrecision:
    """Either the `keep` worst layers stay in float, or as many as bring the error down to `max_error`."""

    static: StaticInt8 = field(default_factory=StaticInt8)  # how the others are quantized
    keep: int = 2
    max_error: float | None = None  # of the logits, by `metric`; given, `keep` is not asked
    metric: Metric = "kl"  # divergence of the answers from the float graph's in nats, or mean squared error of logits
    probe: Probe = "only"  # a layer is judged with it alone in INT8, or with all but it
    rows: int = 128  # calibration rows by which errors are measured; ranges take all that are given

    def __post_init__(self) -> None:
        if self.keep < 0 or self.rows < 1:
            raise QuantizationError(f"keep is {self.keep}, rows is {self.rows}: give 0 or more layers, 1 or more rows")
        if self.max_error is not None and not self.max_error >= 0:
            raise QuantizationError(f"max_error is {self.max_error}: it must be at least 0")
        if self.metric not in ("kl", "mse") or self.probe not in ("only", "all_but"):
            raise QuantizationError(
                f"metric is {self.metric!r}, probe is {self.probe!r}; they are kl or mse, and only or all_but"
            )


@dataclass(frozen=True)
class Mixed:
    """The graph, and why it is as it is. `error` is its own; `all_int8_error` that of the same without float layers."""

    content: bytes
    kept: tuple[Layer, ...]
    error: float
    all_int8_error: float
    sensitivities: tuple[Sensitivity, ...]


def quantize_mixed(content: bytes, rows: Array, spec: TensorSpec, choice: MixedPrecision = MixedPrecision()) -> Mixed:
    """The float graph `content` in INT8 with its worst layers in float; `rows` are of the calibration split alone.

    A layer's sensitivity is that of the layer by itself: what two layers do to each other shows in `error` alone.
    Raises QuantizationError as `quantize_static` does, where there are fewer layers than `keep`, and where no number of
    float layers brings the error down to `max_error`.
    """
    calibrated = Calibrated(content, rows, spec, choice.static)
    every = layers(calibrated)
    if choice.max_error is None and choice.keep >= len(every):
        raise QuantizationError(
            f"keep is {choice.keep} of {len(every)} layers, so none would be INT8: keep fewer, or do not quantize"
        )
    meter = ErrorMeter(content, rows[: choice.rows], spec, choice.metric)
    all_int8 = calibrated.quantized()
    all_int8_error = meter(all_int8)
    found = sensitivities(calibrated, meter, choice.probe)
    ranked = worst_first(found, choice.probe)
    for count in [choice.keep] if choice.max_error is None else range(len(every)):
        kept = ranked[:count]
        made = calibrated.quantized([name for layer in kept for name in layer.nodes]) if kept else all_int8
        error = meter(made)
        if choice.max_error is None or error <= choice.max_error:
            return Mixed(to_bytes(made), kept, error, all_int8_error, found)
    raise QuantizationError(
        f"max_error is {choice.max_error:g}, and with {len(every) - 1} of {len(every)} layers in float it still is "
        f"{error:.3g}: allow more, or do not quantize"
    )
