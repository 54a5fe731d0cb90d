"""Tiny ONNX classifiers of 2x2 grey images into three classes, whose logits can be worked out by hand.

Logits are the first three pixels divided by `scale`, plus `offset`: a student with a small scale is sure of itself,
and the offset, which no softmax sees, tells whose logits they are.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimization.release import Guarantee, Release, VersionRef, publish_release
from training.artifact import Artifact, write_artifact
from training.encoding import ImageEncoding, output_spec
from training.registry import Registry, Version

ENCODING = ImageEncoding(height=2, width=2, channels=1, labels=("a", "b", "c"))
# Softmax of (255, 0, 0) / 25.5 is 0.9999; of (128, 127, 0) / 25.5 it is 0.506.
SCALE = 25.5
SURE = np.array([[[255, 0], [0, 0]]], dtype=np.uint8)
UNSURE = np.array([[[128, 127], [0, 0]]], dtype=np.uint8)


def logits(images_BCHW: NDArray[np.uint8], offset: float, scale: float = SCALE) -> NDArray[np.float32]:
    """What the tiny model answers."""
    pixels = images_BCHW.reshape(len(images_BCHW), -1)[:, :3].astype(np.float32)
    return (pixels / np.float32(scale) + np.float32(offset)).astype(np.float32)


def onnx_model(offset: float, scale: float = SCALE) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((4, 3), np.float32)
    weights[:3] = np.eye(3) / scale
    constants = {
        "flat": np.array([0, -1], np.int64),
        "weights": weights,
        "bias": np.full(3, offset, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
            helper.make_node("Gemm", ["rows", "weights", "bias"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def write_tiny(folder: Path, variant: str, offset: float, scale: float = SCALE) -> Artifact:
    return write_graph(folder, variant, onnx_model(offset, scale))


def write_graph(folder: Path, variant: str, content: bytes) -> Artifact:
    """An Artifact of `content`, whatever it is, that says of itself what the tiny ones do."""
    return write_artifact(
        folder,
        {"model.onnx": content},
        name="tiny",
        variant=variant,
        task="tiny",
        format="onnx",
        precision="fp32",
        encoding=ENCODING,
        input=ENCODING.input_spec,
        output=output_spec(ENCODING),
        architecture=None,
        parent=None,
    )


def publish_tiny(
    registry: Registry, folder: Path, *, model: str, alias: str, threshold: float | None, student_offset: float
) -> tuple[Version, Release]:
    """A teacher (offset 100) and a student as the Release `alias` of `model`."""
    with registry.start_run(model, "tiny", {}) as run:
        parts = []
        for variant, offset in (("teacher", 100.0), ("student", student_offset)):
            artifact = write_tiny(folder / variant, variant, offset)
            version = registry.publish(model, artifact.folder, run, {})
            parts.append(VersionRef(model, version.number, version.digest))
        guarantee = Guarantee("none", 0.0, None, 0, "no promise: a test's Release")
        release = Release(model, parts[0], parts[1], 1.0, threshold, guarantee)
        return publish_release(registry, release, run, alias), release
