"""INT8 and FP8 graphs for TensorRT by NVIDIA's ModelOpt (ONNX -> ONNX, Q/DQ): the one door to it.

Written against ModelOpt's documentation of `modelopt.onnx.quantization.quantize`; where the package is missing, and
it is in no extra of this project, all that happens is a clear refusal.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import read_graph
from optimization.quantize.rows import require_rows
from training.encoding import Array, TensorSpec


@dataclass(frozen=True)
class TensorRtQuantization:
    format: Literal["int8", "fp8"] = "int8"
    calibrator: Literal["max", "entropy"] = "max"

    def __post_init__(self) -> None:
        if self.format not in ("int8", "fp8") or self.calibrator not in ("max", "entropy"):
            raise QuantizationError(
                f"format is {self.format!r}, calibrator is {self.calibrator!r}; it is int8 or fp8, by max or entropy"
            )


def quantize_for_tensorrt(content: bytes, rows: Array, spec: TensorSpec, choice: TensorRtQuantization) -> bytes:
    """The float graph `content` with ModelOpt's Q/DQ; `rows` are of the calibration split alone.

    Raises QuantizationError where ModelOpt is not installed or refuses the graph.
    """
    try:
        from modelopt.onnx.quantization import quantize
    except ImportError as error:
        raise QuantizationError(
            f"ModelOpt, which makes {choice.format} for TensorRT, is missing: pip install nvidia-modelopt[onnx]"
        ) from error
    require_rows(rows, spec)
    read_graph(content)
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "source.onnx", Path(scratch) / "quantized.onnx"
        source.write_bytes(content)
        try:
            quantize(
                onnx_path=str(source),
                quantize_mode=choice.format,
                calibration_data={spec.name: rows},
                calibration_method=choice.calibrator,
                output_path=str(target),
            )
            return target.read_bytes()
        except Exception as error:  # ModelOpt raises types of its own, with no common root
            raise QuantizationError(f"ModelOpt cannot quantize this graph: {error}") from error
