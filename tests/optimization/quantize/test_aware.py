"""Quantization-aware training of a model that reads digits, and the graph that comes of it."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from optimization.quantize.aware import aware_recipe, export_aware, quantize_aware, write_start
from optimization.quantize.aware_model import aware_architecture, is_aware
from optimization.quantize.aware_settings import QuantizationAware
from optimization.quantize.error import QuantizationError
from optimization.quantize.fake import RANGE_UNIT
from optimization.quantize.onnxruntime_door import optimized
from optimization.quantize.static import Calibrated, StaticInt8, quantize_static
from optimization.runners.onnx_runtime import onnx_session
from optimization.variants import aware_variant, range_split
from tests.toys import digits_recipe_student, write_torch
from training.artifact import Artifact, load_artifact
from training.encoding import Array
from training.launch.job import Compute
from training.models.architecture import Architecture, build
from training.models.weights import read_weights
from training.module import load_module, predictor
from training.recipe import Recipe
from training.task import Source, Task

pytestmark = pytest.mark.slow

# So narrow that what stands out most, which tells most, is cut off.
NARROW = StaticInt8("percentile", percentile=60.0, activations="uint8")
CHOICE = QuantizationAware(NARROW, epochs=6, lr=4e-3)


@pytest.fixture(scope="module")
def task(exported_images: Any) -> Task:
    found: Task = exported_images.task
    return found


@pytest.fixture(scope="module")
def parent(exported_images: Any) -> Artifact:
    found: Artifact = exported_images.source
    return found


@pytest.fixture(scope="module")
def float_graph(exported_images: Any) -> bytes:
    content: bytes = exported_images.variant.artifact.model_path.read_bytes()
    return content


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return digits_recipe_student()


@pytest.fixture(scope="module")
def rows(task: Task) -> Array:
    return range_split(task).inputs


@pytest.fixture(scope="module")
def trained(
    parent: Artifact, task: Task, recipe: Recipe, rows: Array, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder = tmp_path_factory.mktemp("aware")
    here = Compute(local=True, storage=str(folder / "train"))
    return quantize_aware(parent, recipe, task, Source(), rows, CHOICE, here, folder / "made")


@pytest.fixture(scope="module")
def graph(trained: Artifact, task: Task) -> bytes:
    return export_aware(trained, task.splits["calibration"].inputs[:4])


def _run(content: bytes, inputs: Array) -> Array:
    logits: Array = onnx_session(content).run(["logits"], {"image": inputs})[0]
    return logits


def _accuracy(logits: Array, labels: Array) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def test_it_recovers_what_quantization_after_training_lost(
    float_graph: bytes, graph: bytes, task: Task, rows: Array
) -> None:
    gate = task.splits["gate"]
    exact = _accuracy(_run(float_graph, gate.inputs), gate.labels)
    after = _accuracy(
        _run(quantize_static(float_graph, rows, task.encoding.input_spec, NARROW), gate.inputs), gate.labels
    )
    aware = _accuracy(_run(graph, gate.inputs), gate.labels)
    assert after < exact - 0.05
    assert aware > exact - 0.02


def test_the_graph_answers_as_the_module_does(trained: Artifact, graph: bytes, task: Task) -> None:
    """Each sum is the same but for float rounding, which now and then moves an activation by a step."""
    inputs = task.splits["gate"].inputs
    fake, integer = predictor(load_module(trained))(inputs), _run(graph, inputs)
    spread = float(fake.std())
    assert np.abs(fake - integer).mean() < 0.005 * spread
    assert np.abs(fake - integer).max() < 0.1 * spread
    assert (fake.argmax(axis=1) == integer.argmax(axis=1)).mean() > 0.99


def test_without_the_runtimes_integer_kernels_it_is_the_module_to_rounding(
    trained: Artifact, graph: bytes, task: Task
) -> None:
    from onnx.reference import ReferenceEvaluator

    inputs = task.splits["gate"].inputs[:64]
    fake = predictor(load_module(trained))(inputs)
    reference = ReferenceEvaluator(onnx.load_from_string(graph)).run(["logits"], {"image": inputs})[0]
    close = np.abs(fake - reference).max(axis=1) < 1e-3
    assert close.mean() > 0.9


def test_the_graph_runs_in_the_kernels_that_static_quantization_gets(
    float_graph: bytes, graph: bytes, task: Task, rows: Array
) -> None:
    static = Calibrated(float_graph, rows, task.encoding.input_spec, NARROW).quantized()

    def kernels(content: bytes) -> list[str]:
        return sorted(node.op_type for node in optimized(content).graph.node if node.op_type.startswith("QLinearConv"))

    assert kernels(graph) == kernels(static.SerializeToString())
    assert len(kernels(graph)) == 3
    names = {node.op_type for node in optimized(graph).graph.node}
    assert "QGemm" in names and not {"Conv", "Gemm"} & names


def test_weights_and_ranges_in_the_graph_are_those_learned(trained: Artifact, graph: bytes) -> None:
    held = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(graph).graph.initializer]
    weights = read_weights(trained.folder)
    steps = sorted(float(array) for array in held if array.shape == () and array.dtype == np.float32)
    for name, high in weights.items():
        if name.endswith(".high"):
            low = weights[name.removesuffix("high") + "low"]
            step = float((high - low.clamp(max=0))[0]) * RANGE_UNIT / 255  # a low may be learned to lie above 0
            assert min(abs(step - other) / step for other in steps) < 1e-5, name
    for name, weight in weights.items():
        if name.endswith("weight") and weight.ndim == 4:
            scale = weight.abs().amax((1, 2, 3)) / 127
            levels = torch.round(weight / scale[:, None, None, None]).to(torch.int8).numpy()
            assert any(array.shape == levels.shape and (array == levels).all() for array in held), name


def test_the_ranges_learned(parent: Artifact, trained: Artifact, recipe: Recipe, rows: Array, tmp_path: Path) -> None:
    start = read_weights(
        write_start(parent, aware_recipe(CHOICE, recipe, parent), rows, NARROW, tmp_path / "s.safetensors")
    )
    now = read_weights(trained.folder)
    assert list(start) == list(now)
    moved = [name for name in start if name.endswith("high") and now[name] > 1.1 * start[name]]
    assert moved


def test_the_artifact_reloads_by_its_manifest_alone(parent: Artifact, trained: Artifact, task: Task) -> None:
    again = load_artifact(trained.folder)
    manifest = again.manifest
    assert (manifest.format, manifest.precision, manifest.variant) == ("torch", "fp32", "student-qat")
    assert manifest.parent == parent.digest
    assert is_aware(manifest.architecture) and not is_aware(parent.manifest.architecture)
    assert load_module(again)(torch.from_numpy(task.splits["gate"].inputs[:2])).shape == (2, 10)


def test_nothing_is_left_beside_the_artifact(trained: Artifact) -> None:
    left = {path.name for path in trained.folder.parent.iterdir()}
    assert left <= {"made", "train"}
    assert not [path for path in (trained.folder.parent / "train").iterdir() if path.name != ".ray-train"]


def test_the_variant_is_int8_and_judged_against_the_module(trained: Artifact, task: Task, tmp_path: Path) -> None:
    variant = aware_variant("student-qat-int8", trained, task, tmp_path, threads=1)
    assert variant.artifact.manifest.precision == "int8"
    assert variant.artifact.manifest.parent == trained.digest
    assert variant.parity.flip_rate <= 0.01
    assert variant.parity.max_abs_diff > 0


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_before_any_training_it_is_static_quantization(
    parent: Artifact, float_graph: bytes, task: Task, recipe: Recipe, rows: Array, tmp_path: Path, activations: Any
) -> None:
    static = StaticInt8(activations=activations, reduce_range=False)
    choice = QuantizationAware(static, ranges="fixed")
    changed = aware_recipe(choice, recipe, parent)
    folder = tmp_path / "start"
    folder.mkdir()
    write_start(parent, changed, rows, static, folder / "model.safetensors")
    from training.models.architecture import build

    module = build(changed.architecture, task.encoding)
    module.load_state_dict(read_weights(folder))
    fake = predictor(module.eval())(task.splits["gate"].inputs)
    after = _run(quantize_static(float_graph, rows, task.encoding.input_spec, static), task.splits["gate"].inputs)
    exact = _run(float_graph, task.splits["gate"].inputs)
    assert np.abs(fake - after).mean() < 0.5 * np.abs(exact - after).mean() + 0.01 * exact.std()


def test_the_model_in_float_may_teach(
    parent: Artifact, task: Task, recipe: Recipe, rows: Array, tmp_path: Path
) -> None:
    here = Compute(local=True, storage=str(tmp_path / "train"))
    alone = dataclasses.replace(CHOICE, epochs=1)
    taught, alone = (
        quantize_aware(parent, recipe, task, Source(), rows, choice, here, tmp_path / choice.learn_from)
        for choice in (dataclasses.replace(alone, learn_from="distil"), alone)
    )
    one, other = read_weights(taught.folder), read_weights(alone.folder)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_rows_that_do_not_fit_are_refused_before_training(
    parent: Artifact, task: Task, recipe: Recipe, rows: Array, tmp_path: Path
) -> None:
    here = Compute(local=True, storage=str(tmp_path / "train"))
    with pytest.raises(QuantizationError, match="the calibration set is float32"):
        quantize_aware(parent, recipe, task, Source(), rows.astype(np.float32), CHOICE, here, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_what_is_aware_is_not_made_so_again_and_what_is_not_is_not_exported(
    parent: Artifact, trained: Artifact, task: Task, recipe: Recipe, rows: Array, tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match="student-qat is quantization-aware already: train its parent"):
        quantize_aware(trained, recipe, task, Source(), rows, CHOICE, Compute(local=True), tmp_path / "made")
    with pytest.raises(QuantizationError, match="was not trained quantization-aware: use quantize_static"):
        export_aware(parent, rows[:4])


def test_a_recurrent_model_is_refused(exported_texts: Any, recipe: Recipe, tmp_path: Path) -> None:
    source, words = exported_texts.source, exported_texts.task
    changed = dataclasses.replace(recipe, task="tests.toys:texts")
    with pytest.raises(QuantizationError, match="recurrent, for which there is no static INT8: use DynamicInt8"):
        quantize_aware(
            source,
            changed,
            words,
            Source(),
            words.splits["calibration"].inputs,
            CHOICE,
            Compute(local=True),
            tmp_path / "m",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"ranges": "guessed"}, "ranges is 'guessed'"),
        ({"learn_from": "nobody"}, "learn_from is 'nobody'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"static": StaticInt8(activations="uint8", weights="uint8")}, "INT8 weights"),
        ({"static": StaticInt8(float_ops=("Add",))}, "leaves no layer out"),
    ],
)
def test_choices_that_make_no_sense_are_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(QuantizationError, match=what):
        QuantizationAware(**fields)


def test_the_architecture_is_data_with_what_the_cpu_decides_decided(task: Task, tmp_path: Path) -> None:
    inner = Architecture("convnet", {"widths": [8]})
    made = aware_architecture(inner, StaticInt8(), learned=True)
    assert made.params["of"] == {"name": "convnet", "params": {"widths": [8]}}
    assert made.params["activations"] in ("uint8", "int8")
    artifact = write_torch(tmp_path / "untrained", task, made)
    assert load_artifact(artifact.folder).manifest.architecture == made


def test_a_pruned_model_is_trained_as_pruning_left_it(task: Task) -> None:
    sizes = {"1.0": (1, 5), "1.1": (5, 5), "2.0": (5, 8)}
    inner = Architecture("convnet", {"widths": [8], "blocks": 3}, sizes, dropped=("3",))
    made = aware_architecture(inner, StaticInt8(), learned=True)
    assert made.params["of"] == inner.to_json()
    kernels = [tuple(weight.shape[:2]) for weight in build(made, task.encoding).parameters() if weight.ndim == 4]
    assert kernels == [(5, 1), (8, 5)]


ON_RAY = """
import sys
from pathlib import Path
from optimization.quantize.aware import export_aware, quantize_aware
from optimization.quantize.aware_settings import QuantizationAware
from tests.toys import digits_recipe_student
from training.artifact import load_artifact
from training.launch.job import Compute
from training.task import Source, load_task
import dataclasses

parent, out = load_artifact(Path(sys.argv[1])), Path(sys.argv[2])
task = load_task("digits", Source())
rows = task.splits["calibration"].inputs[:64]
recipe = dataclasses.replace(digits_recipe_student(), task="digits")
compute = Compute(workers=2, storage=str(out / "train"))
made = quantize_aware(parent, recipe, task, Source(), rows, QuantizationAware(epochs=2), compute, out / "made")
(out / "model.onnx").write_bytes(export_aware(made, rows[:4]))
"""


@pytest.mark.cluster
@pytest.mark.long
def test_it_runs_on_ray_trains_workers(cluster: Any, parent: Artifact, task: Task, tmp_path: Path) -> None:
    from apps.launcher.local import ROOT

    command = [sys.executable, "-c", ON_RAY, str(parent.folder), str(tmp_path)]
    ran = subprocess.run(command, env=cluster.environment, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    gate = task.splits["gate"]
    assert _accuracy(_run((tmp_path / "model.onnx").read_bytes(), gate.inputs), gate.labels) > 0.9
