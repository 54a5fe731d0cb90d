"""Unstructured: the pass that sets single weights of an Artifact to zero and lets the others learn again.

The Artifact keeps its shape and its size: only a file that is compressed gets smaller, and dense kernels multiply by
zero as fast as by anything else. Both are measured and said.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimization.measure.latency import Speedup
from optimization.prune.accuracy import accuracy_of
from optimization.prune.fine_tune import School, fine_tune
from optimization.prune.latency import Stopwatch
from optimization.prune.rebuild import write_weights
from optimization.prune.settings import Sparsify, share_left
from optimization.prune.sparse import FileSize, ZerosOf, file_size, sparsity, zero_smallest
from training.artifact import Artifact
from training.module import load_module
from training.task import Task


@dataclass(frozen=True)
class Sparsified:
    """Accuracies are of the val split, before and after; `speedup` is measured in ONNX Runtime, one row a call."""

    artifact: Artifact
    sparsity: float
    accuracy_before: float
    accuracy: float
    size_before: FileSize
    size: FileSize
    speedup: Speedup

    def metrics(self) -> dict[str, float]:
        return {
            "val_accuracy": self.accuracy,
            "val_accuracy_before": self.accuracy_before,
            "sparsity": self.sparsity,
            "zstd_bytes": self.size.zstd,
            "zstd_bytes_before": self.size_before.zstd,
            "speedup": self.speedup.ratio,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "sparsity": self.sparsity,
            "val_accuracy_before": self.accuracy_before,
            "val_accuracy": self.accuracy,
            "size_before": dataclasses.asdict(self.size_before),
            "size": dataclasses.asdict(self.size),
            "speedup": dataclasses.asdict(self.speedup),
        }


def sparsify(
    source: Artifact, task: Task, settings: Sparsify, school: School, folder: Path, variant: str = "sparse"
) -> Sparsified:
    """`source` (format "torch") with zeros among its weights: the Artifact `folder / variant`, its child.

    Raises ArtifactError where `source` has no module, and what trainings raise.
    """
    whole, module = load_module(source), load_module(source)
    architecture = source.manifest.architecture
    assert architecture is not None, "load_module refuses what has none"
    for number in range(1, settings.rounds + 1):
        zero_smallest(module, 1 - share_left(settings.amount, number, settings.rounds), settings.allocation)
        name = variant if number == settings.rounds else f"{variant}-{number}"
        is_final = not settings.fine_tune.epochs
        made = write_weights(
            folder / (name if is_final else f"{name}-cut"), variant, source, architecture, module.state_dict()
        )
        if not is_final:
            zeros = ZerosOf(made.model_path)
            trained = fine_tune(made, source, task, settings.fine_tune, school, zeros)
            made = write_weights(folder / name, variant, source, architecture, trained.weights)
        module = load_module(made)
    stopwatch = Stopwatch(whole, task.encoding, task.splits["train"].inputs[:64])
    return Sparsified(
        made,
        sparsity(module),
        accuracy_of(whole, task.splits["val"]),
        accuracy_of(module, task.splits["val"]),
        file_size(whole.state_dict()),
        file_size(module.state_dict()),
        stopwatch.speedup(module),
    )
