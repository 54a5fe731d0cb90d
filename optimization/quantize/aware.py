"""Quantization-aware training: weights and ranges learn to bear 8 bits (a "torch" Artifact -> another).

The new Artifact answers as its INT8 graph will; `export_aware` makes that graph, whose Q/DQ hold what was learned.
"""

import dataclasses
from pathlib import Path

from torch.fx import GraphModule

from optimization.distill.distillation import Distillation
from optimization.distill.parameters import Distill
from optimization.distill.teacher import TeacherPlace
from optimization.export import export_onnx
from optimization.graphs.parts import nodes
from optimization.quantize.aware_model import aware_architecture, calibrate, example_of, is_aware, numerics_of
from optimization.quantize.aware_settings import QuantizationAware
from optimization.quantize.error import QuantizationError
from optimization.quantize.frozen import frozen
from optimization.quantize.graph import is_quantized, to_bytes
from optimization.quantize.insertion import with_fake_quantizers
from optimization.quantize.rows import require_rows
from optimization.quantize.static import StaticInt8
from training.artifact import Artifact
from training.encoding import Array
from training.launch.job import Compute, TrainJob, identity_of
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.module import load_module
from training.recipe import Optimizer, Recipe
from training.task import Source, Task
from training.train import write_torch_artifact

START_FILE = "start.safetensors"


def aware_recipe(choice: QuantizationAware, trained_by: Recipe, of: Artifact) -> Recipe:
    """How the fake-quantized model of `of` is trained: in float32, since bfloat16 blurs a grid of 256 levels."""
    assert of.manifest.architecture is not None
    return dataclasses.replace(
        trained_by,
        architecture=aware_architecture(of.manifest.architecture, choice.static, choice.ranges == "learned"),
        epochs=choice.epochs,
        optimizer=Optimizer("adamw", lr=choice.lr, weight_decay=0.0),
        precision="fp32",
        early_stopping=0,
    )


def quantize_aware(
    parent: Artifact,
    trained_by: Recipe,
    task: Task,
    source: Source,
    rows: Array,
    choice: QuantizationAware,
    compute: Compute,
    folder: Path,
    *,
    variant: str = "student-qat",
    tracking_uri: str = "",
    run_id: str = "",
) -> Artifact:
    """Train `parent` (format "torch") on under fake quantization; the Artifact of the best epoch, in the new `folder`.

    `rows` are of the calibration split and set the ranges to begin with. The weights to begin with are written beside
    `folder`, which every worker must reach, as it must `parent` where that teaches. Raises QuantizationError where the
    model or the rows do not do, before anything is trained, and what `run_training` raises.
    """
    if parent.manifest.format != "torch" or parent.manifest.architecture is None:
        raise QuantizationError(
            f"{parent.manifest.variant} is a graph, without a network to train: distil a student from it first, or "
            "quantize it as it is"
        )
    if is_aware(parent.manifest.architecture):
        raise QuantizationError(f"{parent.manifest.variant} is quantization-aware already: train its parent")
    recipe = aware_recipe(choice, trained_by, parent)
    teaching = None
    if choice.learn_from == "distil":
        teaching = Distillation(TeacherPlace(parent.folder), Distill(), recipe.precision)
    start = write_start(parent, recipe, rows, choice.static, folder.parent / f".{folder.name}-{START_FILE}")
    try:
        job = TrainJob(
            recipe,
            source,
            tracking_uri,
            run_id,
            identity_of(recipe, task.data_hash, parent.digest, str(choice)),
            init_from=start,
            make_loss=teaching,
        )
        trained = run_training(job, compute)
        made = write_torch_artifact(folder, variant, recipe, task, trained, parent=parent.digest)
        RunFolder(compute.folder(job)).clear()
    finally:
        start.unlink()
    return made


def write_start(parent: Artifact, recipe: Recipe, rows: Array, static: StaticInt8, path: Path) -> Path:
    """The weights of `parent` with the normalization folded in, and calibrated ranges, as a safetensors file."""
    from safetensors.torch import save_file

    require_rows(rows, parent.manifest.input)
    example = example_of(parent.manifest.encoding)
    module = with_fake_quantizers(load_module(parent), numerics_of(recipe.architecture), example)
    calibrate(module, rows, parent.manifest.input.name, static)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), path)
    return path


def export_aware(artifact: Artifact, example: Array) -> bytes:
    """The INT8 graph of what `quantize_aware` made, with exactly its weights and ranges; logits stay float32.

    `example` is as in `export_onnx`. Raises QuantizationError for an Artifact that was not trained so, and ExportError
    where PyTorch cannot export it.
    """
    import onnx

    manifest = artifact.manifest
    if not is_aware(manifest.architecture):
        raise QuantizationError(f"{manifest.variant} was not trained quantization-aware: use quantize_static")
    module = load_module(artifact)
    assert isinstance(module, GraphModule)
    made = onnx.load_from_string(export_onnx(frozen(module), example, manifest.input, manifest.output))
    assert any(is_quantized(node.op_type) for node in nodes(made))
    return to_bytes(made)
