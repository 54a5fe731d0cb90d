"""Teacher: an Artifact of any format that answers the batches of a training.

Shape suffixes: B batch, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from optimization.distill.layers import tap_layers
from optimization.runners.open import open_runner
from training.artifact import Artifact, load_artifact
from training.encoding import ImageEncoding
from training.module import load_module
from training.parallel.strategy import AUTOCAST
from training.recipe import Precision
from training.registry import Registry

# A batch as the student sees it -> float32 logits [B, C], and what each hinted layer answered.
Teacher = Callable[[Tensor], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class TeacherPlace:
    """Where a worker finds the teacher: its folder, or, on a node that lacks it, the registry.

    The folder then lies in a cache of fetched Versions, under its digest, as `Registry.fetch` puts it there.
    """

    folder: Path
    reference: str = ""  # MODEL@NUMBER
    tracking_uri: str = ""

    def artifact(self) -> Artifact:
        """Verified against its hashes; raises ArtifactError or RegistryError where it cannot be had."""
        if not self.folder.is_dir() and self.reference:
            registry = Registry(self.tracking_uri)
            return load_artifact(registry.fetch(registry.resolve(self.reference), self.folder.parent))
        return load_artifact(self.folder)


def open_teacher(artifact: Artifact, layers: Sequence[str] = (), precision: Precision = "fp32") -> Teacher:
    """The teacher, which learns nothing itself. `layers` are those whose outputs are wanted too.

    A "torch" Artifact runs where its batches lie, its products in `precision`. A graph runs in ONNX Runtime on the CPU,
    at its own precision. Raises ValueError where a graph is asked for layers, or a module has no such layer.
    """
    if artifact.manifest.format == "torch":
        return _ModuleTeacher(artifact, layers, precision)
    if layers:
        raise ValueError(
            f"{artifact.manifest.name} ({artifact.manifest.variant}) is a graph, whose layers cannot be looked into: "
            "leave out the hints, or give the Version that training registered"
        )
    return _GraphTeacher(artifact)


class _ModuleTeacher:
    def __init__(self, artifact: Artifact, layers: Sequence[str], precision: Precision) -> None:
        self._module = load_module(artifact).requires_grad_(False)
        if isinstance(artifact.manifest.encoding, ImageEncoding):
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as fit() does
        self._taps = tap_layers(self._module, layers, "teacher")
        self._low = AUTOCAST[precision]
        self._device = torch.device("cpu")

    def __call__(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        if inputs.device != self._device:
            self._module.to(inputs.device)
            self._device = inputs.device
        with torch.no_grad(), torch.autocast(inputs.device.type, self._low, enabled=self._low is not None):
            logits_BC: Tensor = self._module(inputs)
        return logits_BC.float(), [tap.take() for tap in self._taps]


class _GraphTeacher:
    def __init__(self, artifact: Artifact) -> None:
        self._runner = open_runner(artifact, torch.get_num_threads())

    def __call__(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        return torch.from_numpy(self._runner(inputs.cpu().numpy())).to(inputs.device), []
