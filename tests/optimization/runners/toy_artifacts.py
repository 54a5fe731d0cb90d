"""Artifacts of the toy graphs, for tests of what runs them."""

from pathlib import Path

import onnx

from tests.optimization.graphs.toy_graphs import OUTPUT
from training.artifact import Artifact, write_artifact
from training.encoding import ImageEncoding, TensorSpec

ENCODING = ImageEncoding(height=1, width=4, channels=1, labels=("a", "b", "c"))
VECTORS = TensorSpec("x", "FP32", (-1, 4))


def write_onnx(
    folder: Path, made: onnx.ModelProto | bytes, precision: str = "fp32", reads: TensorSpec = VECTORS
) -> Artifact:
    content = made if isinstance(made, bytes) else made.SerializeToString()
    return write_artifact(
        folder,
        {"model.onnx": content},
        name="toy",
        variant="v",
        task="toy",
        format="onnx",
        precision=precision,
        encoding=ENCODING,
        input=reads,
        output=OUTPUT,
        architecture=None,
        parent=None,
    )
