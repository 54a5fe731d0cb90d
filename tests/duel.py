"""Models that err on chosen rows, for duels between Releases: a task of 2x2 images and graphs with a flaw.

A row shows its class as the brightest of its first three pixels. The fourth pixel is what a flawed model stumbles over:
it speaks for the first class most and for the second half as much. Where it is bright (a trap), rows of the third class
are answered wrong and surely, those of the second wrong and unsurely; where it is half as bright, those of the third
unsurely.
"""

from pathlib import Path

import numpy as np

from optimization.release import Guarantee, Release, VersionRef, publish_release
from tests.tiny import ENCODING
from training.artifact import Artifact, Precision, write_artifact
from training.encoding import output_spec
from training.lineage import version_tags
from training.models.architecture import Architecture
from training.recipe import Recipe
from training.registry import Registry, Version
from training.task import SPLIT_NAMES, Source, Split, Task

ROWS = 600
TASK = "tests.duel:task"
SCALE = 25.5
# Of every hundred rows so many are a trap, and so many half of one.
TRAPS, HALF_TRAPS = 4, 6


def task(source: Source, *, rows: int = ROWS) -> Task:
    splits = {}
    for number, name in enumerate(SPLIT_NAMES):
        index = np.arange(rows)
        labels = (index + number) % 3
        images = np.zeros((rows, 1, 2, 2), np.uint8)
        images.reshape(rows, 4)[index, labels] = 255
        images[index % 100 < TRAPS, 0, 1, 1] = 255
        images[(index % 100 >= TRAPS) & (index % 100 < TRAPS + HALF_TRAPS), 0, 1, 1] = 128
        images[:, 0, 1, 1] += (index % 2).astype(np.uint8) * (images[:, 0, 1, 1] < 255)
        splits[name] = Split(images, labels.astype(np.int64))
    return Task("duel", ENCODING, splits, margin=0.02)


def write_model(
    folder: Path,
    variant: str,
    *,
    flaw: float = 0.0,
    work: int = 1,
    precision: Precision = "fp32",
    parent: str | None = None,
) -> Artifact:
    """`flaw` 0 is always right, 1 as above; `work` is the width of a product, which takes time and room."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((4, 3), np.float32)
    weights[:3] = np.eye(3) / SCALE
    weights[3] = np.array([2.1, 1.05, 0.0], np.float32) * flaw / SCALE
    constants = {
        "flat": np.array([0, -1], np.int64),
        "weights": weights,
        "wide": np.zeros((4, work), np.float32),
        "narrow": np.zeros((work, 3), np.float32),
    }
    # Stored in integers without a change of any answer: what is stored so is zero.
    stored = []
    if precision == "int8":
        constants |= {"wide_int8": np.zeros((4, work), np.int8), "scale": np.float32(1.0)}
        del constants["wide"]
        stored = [helper.make_node("DequantizeLinear", ["wide_int8", "scale"], ["wide"])]
    graph = helper.make_graph(
        [
            *stored,
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weights"], ["seen"]),
            helper.make_node("MatMul", ["rows", "wide"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "narrow"], ["nothing"]),
            helper.make_node("Add", ["seen", "nothing"], ["logits"]),
        ],
        "duel",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return write_artifact(
        folder,
        {"model.onnx": bytes(model.SerializeToString())},
        name="duel",
        variant=variant,
        task=TASK,
        format="onnx",
        precision=precision,
        encoding=ENCODING,
        input=ENCODING.input_spec,
        output=output_spec(ENCODING),
        architecture=None,
        parent=parent,
    )


def publish_model(registry: Registry, artifact: Artifact, *, rows: int = ROWS) -> Version:
    recipe = Recipe(TASK, Architecture("none"), epochs=1, task_params={"rows": rows})
    with registry.start_run("duel", artifact.manifest.variant, {}) as run:
        tags = version_tags("duel", recipe.task_params, Source(), task(Source(), rows=rows), artifact)
        return registry.publish("duel", artifact.folder, run, tags)


def publish_pair(
    registry: Registry, teacher: Version, student: Version, *, threshold: float | None = 0.9, max_harm: float = 0.05
) -> Version:
    """A Release of the two as the candidate of `duel.endpoint`."""
    guarantee = Guarantee("high_probability", max_harm, 0.95, 500, "a test's promise")
    parts = [VersionRef(version.name, version.number, version.digest) for version in (teacher, student)]
    with registry.start_run("duel", "pair", {}) as run:
        return publish_release(registry, Release("duel", *parts, 1.0, threshold, guarantee), run, "candidate")
