"""Quantization-aware training: weights and ranges learn to bear 8 bits (a "torch" Artifact -> another).

The new Artifact answers as its INT8 graph will; `export_aware` makes that graph, whose Q/DQ hold what was learned.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn
from torch.fx import GraphModule

from optimization.export import export_onnx
from optimization.graphs.parts import nodes
from optimization.quantize.aware_model import aware_architecture, calibrate, example_of, is_aware, numerics_of
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
from training.loop.losses import Loss
from training.module import load_module
from training.recipe import Optimizer, Recipe
from training.task import Source, Task
from training.train import write_torch_artifact

START_FILE = "start.safetensors"


@dataclass(frozen=True)
class QuantizationAware:
    """What it does not say, such as the augmentation, is as in the recipe that the model was trained by."""

    static: StaticInt8 = field(default_factory=StaticInt8)  # types, and how the ranges begin
    ranges: Literal["learned", "fixed"] = "learned"  # fixed: as the calibration rows set them
    epochs: int = 3
    lr: float = 2e-4  # AdamW's, at its peak

    def __post_init__(self) -> None:
        if self.ranges not in ("learned", "fixed"):
            raise QuantizationError(f"ranges is {self.ranges!r}; they are learned or fixed")
        if self.epochs < 1 or not self.lr > 0:
            raise QuantizationError(f"epochs is {self.epochs}, lr is {self.lr}: give 1 or more, and above 0")
        if self.static.weights != "int8" or self.static.float_ops or self.static.float_nodes:
            raise QuantizationError("quantization-aware training has INT8 weights, and leaves no layer out by name")

    def recipe(self, trained_by: Recipe, of: Artifact) -> Recipe:
        """How the fake-quantized model of the Artifact `of` is trained."""
        assert of.manifest.architecture is not None
        return dataclasses.replace(
            trained_by,
            architecture=aware_architecture(of.manifest.architecture, self.static, self.ranges == "learned"),
            epochs=self.epochs,
            optimizer=Optimizer("adamw", lr=self.lr, weight_decay=0.0),
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
    make_loss: Callable[[nn.Module, Loss], Loss] | None = None,
    tracking_uri: str = "",
    run_id: str = "",
) -> Artifact:
    """Train `parent` (format "torch") on under fake quantization; the Artifact of the best epoch, in the new `folder`.

    `rows` are of the calibration split and set the ranges to begin with. `make_loss` is as in TrainJob, for a teacher.
    The weights to begin with are written beside `folder`, which every worker must reach. Raises QuantizationError where
    the model or the rows do not do, before anything is trained, and what `run_training` raises.
    """
    if is_aware(parent.manifest.architecture):
        raise QuantizationError(f"{parent.manifest.variant} is quantization-aware already: train its parent")
    recipe = choice.recipe(trained_by, parent)
    start = write_start(parent, recipe, rows, choice.static, folder.parent / f".{folder.name}-{START_FILE}")
    try:
        job = TrainJob(
            recipe,
            source,
            tracking_uri,
            run_id,
            identity_of(recipe, task.data_hash, parent.digest),
            init_from=start,
            make_loss=make_loss,
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
