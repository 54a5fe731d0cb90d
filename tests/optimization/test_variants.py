import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from optimization.export import ExportError
from optimization.quantize.choice import NoQuantization, PostTraining
from optimization.quantize.error import QuantizationError
from optimization.quantize.low_precision import LowPrecision
from optimization.quantize.mixed import MixedPrecision
from optimization.quantize.static import StaticInt8
from optimization.variants import (
    MAX_EXPORT_DIFFERENCE,
    Variant,
    float_variant,
    int8_variant,
    quantized_variant,
    range_split,
    threshold_split,
)
from tests.toys import images, write_torch
from training.artifact import load_artifact
from training.encoding import ImageEncoding
from training.models.architecture import Architecture
from training.task import Source, Split, Task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


@pytest.fixture(scope="module")
def pair(exported_images: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, Variant]:
    exact = exported_images.variant
    return exact, int8_variant("student-int8", exact, exported_images.task, tmp_path_factory.mktemp("int8"), threads=1)


def test_a_variant_is_an_artifact_with_its_line_of_descent(pair: tuple[Variant, Variant], exported_images: Any) -> None:
    exact, quantized = pair
    source = exported_images.source
    assert (exact.name, quantized.name) == ("student-fp32", "student-int8")
    assert (exact.artifact.manifest.precision, quantized.artifact.manifest.precision) == ("fp32", "int8")
    assert exact.artifact.manifest.parent == source.digest
    assert quantized.artifact.manifest.parent == exact.artifact.digest
    for variant in pair:
        manifest = load_artifact(variant.artifact.folder).manifest
        assert manifest.format == "onnx"
        assert manifest.encoding == source.manifest.encoding
        assert manifest.architecture == source.manifest.architecture
    assert quantized.artifact.size_bytes < exact.artifact.size_bytes


def test_parity_is_measured_against_the_parent(pair: tuple[Variant, Variant], exported_images: Any) -> None:
    exact, quantized = pair
    assert exact.parity.max_abs_diff < 1e-4
    assert (exact.parity.flips, exact.parity.rows) == (0, 64)
    gate = exported_images.task.splits["gate"].inputs
    assert quantized.parity.rows == len(gate)
    difference = float(np.abs(quantized.runner(gate) - exact.runner(gate)).max())
    assert quantized.parity.max_abs_diff == pytest.approx(difference, rel=1e-3)
    assert difference > 1e-4


def test_a_texts_variant_has_its_tokenizer_and_is_quantized_dynamically(exported_texts: Any, tmp_path: Path) -> None:
    task, exact = exported_texts.task, exported_texts.variant
    quantized = int8_variant("t-int8", exact, task, tmp_path, threads=1)
    tokenizer = task.files[task.encoding.tokenizer_file]
    assert quantized.artifact.encoding_files() == {task.encoding.tokenizer_file: tokenizer}
    operations = {node.op_type for node in onnx.load(quantized.artifact.model_path).graph.node}
    assert "DynamicQuantizeLSTM" in operations
    assert "QuantizeLinear" not in operations
    assert quantized.parity.rows == 60


@pytest.mark.parametrize(
    ("choice", "precision"),
    [(NoQuantization(), "fp32"), (LowPrecision(), "fp16"), (MixedPrecision(keep=1), "int8")],
)
def test_a_variant_is_quantized_as_was_chosen(
    exported_images: Any, tmp_path: Path, choice: PostTraining, precision: str
) -> None:
    exact, task = exported_images.variant, exported_images.task
    made = quantized_variant("chosen", exact.artifact, choice, task, tmp_path, threads=1)
    assert made.artifact.manifest.precision == precision
    assert made.artifact.manifest.parent == exact.artifact.digest
    assert made.parity.flip_rate <= 0.02
    assert (made.artifact.size_bytes < exact.artifact.size_bytes) == (precision != "fp32")


def test_what_cannot_be_quantized_leaves_no_artifact(exported_images: Any, tmp_path: Path) -> None:
    choice = StaticInt8(float_nodes=("no such node",))
    with pytest.raises(QuantizationError, match="no such node cannot stay in float"):
        quantized_variant("chosen", exported_images.variant.artifact, choice, exported_images.task, tmp_path, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_ranges_and_threshold_come_from_different_calibration_rows(toy: Task) -> None:
    whole = toy.splits["calibration"]
    numbered = Split(np.arange(60 * 16, dtype=np.uint16).astype(np.uint8).reshape(60, 1, 4, 4), whole.labels)
    task = dataclasses.replace(toy, splits={**toy.splits, "calibration": numbered})
    used, rest = range_split(task), threshold_split(task)
    assert (len(used), len(rest)) == (18, 42)
    together = np.concatenate([used.labels, rest.labels])
    assert sorted(together) == sorted(whole.labels)
    assert (range_split(task).inputs == used.inputs).all()
    # The cut is random: neither part is a run of neighbours.
    assert (used.labels != whole.labels[:18]).any() and (rest.labels != whole.labels[18:]).any()


def test_a_large_calibration_split_gives_its_surplus_to_the_threshold(toy: Task) -> None:
    many = Split(np.zeros((5000, 1, 4, 4), np.uint8), np.zeros(5000, np.int64))
    large = dataclasses.replace(toy, splits={**toy.splits, "calibration": many})
    assert len(range_split(large)) == 512
    assert len(threshold_split(large)) == 4488


class _Unfaithful(nn.Module):
    """Answers otherwise when it is exported than when it is run."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(16, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(images_BCHW.float().flatten(1) / 255)
        return logits + 1 if torch.compiler.is_compiling() else logits


def unfaithful(encoding: ImageEncoding) -> nn.Module:
    return _Unfaithful(len(encoding.labels))


def test_a_graph_that_does_not_answer_as_its_module_is_refused(
    toy: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tests.toys

    monkeypatch.setattr(tests.toys, "unfaithful", unfaithful, raising=False)
    source = write_torch(tmp_path / "source", toy, Architecture("tests.toys:unfaithful"))
    with pytest.raises(ExportError, match=f"odd: the exported .* by 1; at most {MAX_EXPORT_DIFFERENCE} is rounding"):
        float_variant("odd", source, toy, tmp_path, threads=1)
