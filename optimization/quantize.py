"""Quantize: a float ONNX graph -> an INT8 one, by ONNX Runtime.

Static (images): QDQ, per channel, ranges from the calibration split; the activation type is chosen
for the CPU at hand. Dynamic (text): weights alone, activations are scaled as they come.
"""

import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.encoding import Array, TensorSpec

CALIBRATION_BATCH = 64


class QuantizationError(ValueError):
    """A graph or a calibration set that cannot be quantized."""


class _Batches:
    """ONNX Runtime's CalibrationDataReader: get_next() -> feed or None."""

    def __init__(self, inputs: Array, name: str) -> None:
        self._feeds: Iterator[dict[str, Array]] = (
            {name: inputs[first : first + CALIBRATION_BATCH]} for first in range(0, len(inputs), CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantize_static(model: bytes, calibration: Array, input_spec: TensorSpec) -> bytes:
    """INT8 weights and activations; `calibration` are inputs of the calibration split, and of no other.

    Raises QuantizationError where they do not fit the graph or the graph cannot be quantized.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as run

    if calibration.dtype != input_spec.dtype or not input_spec.admits(calibration.shape) or not len(calibration):
        raise QuantizationError(
            f"the calibration set is {calibration.dtype} {calibration.shape}; the graph's input {input_spec.name!r} "
            f"wants {input_spec.dtype} {input_spec.shape}"
        )
    # With unsigned activations and VNNI the products add up in 32 bits; older x86 adds pairs in 16 and can
    # saturate, which 7-bit weights avoid. Other CPUs are fastest with both signed.
    x86 = platform.machine() in ("x86_64", "AMD64")

    def quantize(source: Path, target: Path) -> None:
        run(
            source,
            target,
            _Batches(calibration, input_spec.name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8 if x86 else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            reduce_range=x86 and not _has_vnni(),
            calibrate_method=CalibrationMethod.MinMax,
        )

    return _through_files(model, quantize)


def quantize_dynamic(model: bytes) -> bytes:
    """INT8 weights of the matrix products, embeddings and LSTMs."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as run

    return _through_files(model, lambda source, target: run(source, target, weight_type=QuantType.QInt8))


def _through_files(model: bytes, quantize: Any) -> bytes:
    import logging

    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        source, prepared, target = (Path(scratch) / name for name in ("source.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(model)
        # ONNX Runtime's quantizer speaks through the root logger, of matters its caller cannot change.
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)
        try:
            # Symbolic inference cannot follow an LSTM's shapes; ONNX's own inference is enough for both ways.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            _forget_shapes(prepared)
            quantize(prepared, target)
        except Exception as error:  # onnx and its runtime raise types of their own, with no common root
            raise QuantizationError(f"ONNX Runtime cannot quantize this graph: {error}") from error
        finally:
            logging.getLogger().setLevel(level)
        return target.read_bytes()


def _forget_shapes(path: Path) -> None:
    """Drop the recorded shapes of inner tensors: optimization leaves stale ones, on which inference stumbles."""
    import onnx

    model = onnx.load(path)
    del model.graph.value_info[:]
    onnx.save(model, path)


def _has_vnni() -> bool:
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
