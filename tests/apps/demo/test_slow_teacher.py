"""Bright lines in noise (tests.toys): the graph sums each row's pixels, which tells where the line is."""

from pathlib import Path

import numpy as np
import pytest

from apps.demo.slow_teacher import Wanted, slow_release
from apps.demo.views import max_shifted_views
from optimization.release import (
    Guarantee,
    Release,
    VersionRef,
    endpoint_name,
    load_release,
    publish_release,
)
from optimization.runners.open import open_runner
from tests import toys
from training.artifact import Artifact, load_artifact, write_artifact
from training.encoding import output_spec
from training.registry import Registry, RegistryError
from training.task import Source

pytestmark = pytest.mark.slow

MODEL = "slow_toys"


def onnx_model(scale: float) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((16, 3), np.float32)
    for row in range(3):
        weights[4 * row : 4 * row + 4, row] = 1 / scale
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        ],
        "lines",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([-1, 16], np.int64), "flat"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def write(folder: Path, variant: str, scale: float) -> Artifact:
    return write_artifact(
        folder,
        {"model.onnx": onnx_model(scale)},
        name=MODEL,
        variant=variant,
        task="tests.toys:images",
        format="onnx",
        precision="fp32",
        encoding=toys.IMAGES,
        input=toys.IMAGES.input_spec,
        output=output_spec(toys.IMAGES),
        architecture=None,
        parent=None,
    )


@pytest.fixture
def registry(mlflow_uri: str, tmp_path: Path) -> Registry:
    """With `slow_toys.endpoint@candidate`, whose student is never sure."""
    registry = Registry(mlflow_uri)
    run = registry.start_run(MODEL, "toys", {})
    parts = []
    for variant, scale in (("teacher-fp32", 50.0), ("student", 5_000.0)):
        version = registry.publish(MODEL, write(tmp_path / variant, variant, scale).folder, run, {})
        parts.append(VersionRef(MODEL, version.number, version.digest))
    release = Release(MODEL, parts[0], parts[1], 1.0, 0.5, Guarantee("none", 0.0, None, 0, "a test's"))
    publish_release(registry, release, run, "candidate")
    return registry


def test_slow_release_pairs_the_student_with_a_teacher_of_many_views(registry: Registry, tmp_path: Path) -> None:
    reference = f"{endpoint_name(MODEL)}@candidate"
    before = load_release(registry.fetch(registry.resolve(reference), tmp_path / "cache"))
    slow = slow_release(registry, reference, Wanted(item_ms=0.05, alias="late"), Source(), tmp_path / "cache")
    after = load_release(registry.fetch(registry.resolve(f"{endpoint_name(MODEL)}@late"), tmp_path / "cache"))
    assert after.student == before.student and after.teacher != before.teacher
    # The promise is made anew, for the pair that is served.
    assert after.guarantee.samples > 0 and after.threshold == slow.calibration.threshold
    teacher = load_artifact(registry.fetch(registry.resolve(f"{MODEL}@{after.teacher.number}"), tmp_path / "cache"))
    assert teacher.manifest.parent == before.teacher.digest
    assert slow.views > 1 and teacher.manifest.variant == f"teacher-fp32-{slow.views}-views"
    images = toys.images(Source()).splits["gate"].inputs
    assert open_runner(teacher)(images).shape == (len(images), 3)


def test_a_teacher_is_slowed_by_mirrored_views_too_where_all_are_wanted(registry: Registry, tmp_path: Path) -> None:
    reference = f"{endpoint_name(MODEL)}@candidate"
    slow = slow_release(registry, reference, Wanted(item_ms=1_000, flip=True), Source(), tmp_path / "cache")
    assert slow.views == max_shifted_views(flip=True) > max_shifted_views(flip=False)


def test_unknown_release_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="nothing"):
        slow_release(registry, f"{endpoint_name(MODEL)}@nothing", Wanted(), Source(), tmp_path / "cache")
