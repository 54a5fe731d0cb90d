"""Origin: where a model comes from that was not trained here, and how it becomes an Artifact."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optimization.adopt.graft import Scaling
from optimization.adopt.graph import read_graph
from training.artifact import MODEL_FILE, Artifact, ModelFormat, sha256_of, write_artifact
from training.encoding import output_spec
from training.models.architecture import Architecture, build
from training.task import Task

VARIANT = "teacher"


class Origin(Protocol):
    def write(self, folder: Path, reference: str, task: Task) -> Artifact:
        """The Artifact in the new folder `folder`, for `task`, which `reference` names; raises ValueError where the
        model is not sound, or not one of that task.
        """
        ...

    def described(self) -> str:
        """What it was made from, as JSON: the files by name and sha256."""
        ...


@dataclass(frozen=True)
class FromTorch:
    """An architecture and a file of its weights (.safetensors, or a torch.save of tensors; no code is read)."""

    architecture: Architecture
    weights: Path

    def write(self, folder: Path, reference: str, task: Task) -> Artifact:
        from safetensors.torch import save

        from training.models.weights import load_all_weights

        module = build(self.architecture, task.encoding)
        load_all_weights(module, self.weights)
        content = save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})
        return _write(folder, reference, task, "torch", content, self.architecture)

    def described(self) -> str:
        return json.dumps(
            {
                "from": "torch",
                "architecture": self.architecture.name,
                "params": dict(self.architecture.params),
                **_file(self.weights),
            }
        )


@dataclass(frozen=True)
class FromOnnx:
    """A float32 graph that holds its weights; `scaling` is that of its pixels where it reads floats."""

    graph: Path
    scaling: Scaling | None = field(default=None)

    def write(self, folder: Path, reference: str, task: Task) -> Artifact:
        return _write(folder, reference, task, "onnx", read_graph(self.graph, task.encoding, self.scaling), None)

    def described(self) -> str:
        scaled = {"mean": list(self.scaling.mean), "std": list(self.scaling.std)} if self.scaling else {}
        return json.dumps({"from": "onnx", **scaled, **_file(self.graph)})


def _write(
    folder: Path, reference: str, task: Task, kind: ModelFormat, content: bytes, architecture: Architecture | None
) -> Artifact:
    return write_artifact(
        folder,
        {MODEL_FILE[kind]: content, **task.files},
        name=task.name,
        variant=VARIANT,
        task=reference,
        format=kind,
        precision="fp32",
        encoding=task.encoding,
        input=task.encoding.input_spec,
        output=output_spec(task.encoding),
        architecture=architecture,
        parent=None,
    )


def _file(path: Path) -> dict[str, Any]:
    path = path / MODEL_FILE["torch"] if path.is_dir() else path
    return {"file": path.name, "sha256": sha256_of(path)}
