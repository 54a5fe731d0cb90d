"""Variants: the ONNX forms of a teacher and its student, each an Artifact with its parity to what it was made from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimization.export import ExportError, export_onnx
from optimization.measure.batches import parity_lengths
from optimization.measure.parity import Parity, parity
from optimization.quantize.aware import export_aware
from optimization.quantize.choice import PostTraining, precision_of, quantize
from optimization.quantize.dynamic import DynamicInt8
from optimization.quantize.static import StaticInt8
from optimization.runners.contract import Runner
from optimization.runners.open import open_runner
from training.artifact import MODEL_FILE, Artifact, Precision, write_artifact
from training.encoding import Array, ImageEncoding
from training.module import load_module, predictor
from training.task import Split, Task

# Rounding apart, an exported float graph must answer as its module does.
MAX_EXPORT_DIFFERENCE = 1e-3
EXPORT_PARITY_ROWS = 64
# Quantization flips a few answers in a thousand: fewer rows would judge it by chance.
QUANTIZATION_PARITY_ROWS = 512
PARITY_BATCH_SIZES = (1, 3, 8)
MAX_RANGE_ROWS = 512
MAX_AWARE_FLIP_RATE = 0.02


@dataclass(frozen=True)
class Variant:
    """`parity` compares it, on rows of the gate split, with what it was made from: the PyTorch module for a float
    graph, the float graph for an INT8 one.
    """

    artifact: Artifact
    runner: Runner
    parity: Parity

    @property
    def name(self) -> str:
        return self.artifact.manifest.variant


def range_split(task: Task) -> Split:
    """Rows of the calibration split that set quantizer ranges; the others calibrate the cascade.

    The threshold's guarantee needs rows that no part of the student was made from, and that are drawn as those
    served are: the cut is random (and always the same), since some sets lie in the order of their makers.
    """
    return _calibration_part(task, ranges=True)


def threshold_split(task: Task) -> Split:
    """The rows of the calibration split that `range_split` leaves."""
    return _calibration_part(task, ranges=False)


def _calibration_part(task: Task, ranges: bool) -> Split:
    calibration = task.splits["calibration"]
    used = min(MAX_RANGE_ROWS, len(calibration) * 3 // 10)
    order = np.random.default_rng(0).permutation(len(calibration))
    rows = np.sort(order[:used] if ranges else order[used:])
    return Split(calibration.inputs[rows], calibration.labels[rows])


def float_variant(name: str, source: Artifact, task: Task, folder: Path, threads: int) -> Variant:
    """`source` as FP32 ONNX; raises ExportError where the graph does not answer as the module that it is made of."""
    manifest = source.manifest
    if manifest.format == "onnx":
        made = _write(folder / name, name, "fp32", source.model_path.read_bytes(), source)
        return _variant(made, open_runner(source, threads), task, threads, EXPORT_PARITY_ROWS)
    module = load_module(source)
    example = task.splits["calibration"].inputs[:4]
    content = export_onnx(module, example, manifest.input, manifest.output)
    made = _write(folder / name, name, "fp32", content, source)
    variant = _variant(made, predictor(module), task, threads, EXPORT_PARITY_ROWS)
    if variant.parity.max_abs_diff > MAX_EXPORT_DIFFERENCE:
        raise ExportError(
            f"{name}: the exported graph's logits differ from the module's by {variant.parity.max_abs_diff:.2g}; "
            f"at most {MAX_EXPORT_DIFFERENCE} is rounding"
        )
    return variant


def int8_variant(name: str, parent: Variant, task: Task, folder: Path, threads: int) -> Variant:
    """`parent` quantized: images statically, with ranges from the calibration split; texts dynamically."""
    choice = StaticInt8() if isinstance(task.encoding, ImageEncoding) else DynamicInt8()
    return quantized_variant(name, parent.artifact, choice, task, folder, threads)


def quantized_variant(
    name: str, parent: Artifact, choice: PostTraining, task: Task, folder: Path, threads: int
) -> Variant:
    """The float graph `parent` as `choice` says, with ranges and sensitivities from the calibration split."""
    made = quantize(parent.model_path.read_bytes(), choice, range_split(task).inputs, parent.manifest.input)
    artifact = _write(folder / name, name, precision_of(choice), made, parent)
    return _variant(artifact, open_runner(parent, threads), task, threads, QUANTIZATION_PARITY_ROWS)


def aware_variant(name: str, source: Artifact, task: Task, folder: Path, threads: int) -> Variant:
    """`source`, which quantize_aware made, as an INT8 graph with what it learned.

    Raises ExportError where the graph's answers are not the module's: integer sums are rounded otherwise than float
    ones now and then, which may flip an answer in a thousand.
    """
    example = task.splits["calibration"].inputs[:4]
    made = _write(folder / name, name, "int8", export_aware(source, example), source)
    variant = _variant(made, predictor(load_module(source)), task, threads, QUANTIZATION_PARITY_ROWS)
    if variant.parity.flip_rate > MAX_AWARE_FLIP_RATE:
        raise ExportError(
            f"{name}: the exported graph answers {variant.parity.flips} of {variant.parity.rows} rows otherwise than "
            f"the fake-quantized module; at most {MAX_AWARE_FLIP_RATE:.0%} is rounding"
        )
    return variant


def _write(folder: Path, variant: str, precision: Precision, content: bytes, parent: Artifact) -> Artifact:
    manifest = parent.manifest
    return write_artifact(
        folder,
        {MODEL_FILE["onnx"]: content, **parent.encoding_files()},
        name=manifest.name,
        variant=variant,
        task=manifest.task,
        format="onnx",
        precision=precision,
        encoding=manifest.encoding,
        input=manifest.input,
        output=manifest.output,
        architecture=manifest.architecture,
        parent=parent.digest,
    )


def _variant(
    artifact: Artifact, reference: Callable[[Array], Array], task: Task, threads: int, parity_rows: int
) -> Variant:
    runner = open_runner(artifact, threads)
    rows = task.splits["gate"].inputs[:parity_rows]
    lengths = parity_lengths(task.encoding, rows)
    return Variant(artifact, runner, parity(reference, runner, rows, PARITY_BATCH_SIZES, lengths))
