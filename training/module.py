"""An Artifact's nn.Module, rebuilt from its architecture and safetensors, and back; no pickle is read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.artifact import MODEL_FILE, Artifact, ArtifactError, write_artifact
from training.encoding import Array, output_spec
from training.models.architecture import Architecture, build
from training.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_module(artifact: Artifact) -> "nn.Module":
    """The module in eval mode; raises ArtifactError where the Artifact has none or its weights do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = artifact.manifest
    if manifest.format != "torch" or manifest.architecture is None:
        raise ArtifactError(f"{manifest.name} ({manifest.variant}) is {manifest.format}: it has no PyTorch module")
    module = build(manifest.architecture, manifest.encoding)
    try:
        module.load_state_dict(load_file(artifact.model_path))
    except (RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"the weights of {manifest.name} ({manifest.variant}) do not fit it: {error}") from error
    return module.eval()


def write_torch(
    folder: Path,
    variant: str,
    weights: "Mapping[str, Tensor]",
    architecture: Architecture,
    task: Task,
    reference: str = "",
    parent: str | None = None,
) -> Artifact:
    """`weights` of what `architecture` builds, as an Artifact (format "torch") of `task`, which `reference` loads."""
    from safetensors.torch import save

    return write_artifact(
        folder,
        {MODEL_FILE["torch"]: save(dict(weights)), **task.files},
        name=task.name,
        variant=variant,
        task=reference or task.name,
        format="torch",
        precision="fp32",
        encoding=task.encoding,
        input=task.encoding.input_spec,
        output=output_spec(task.encoding),
        architecture=architecture,
        parent=parent,
    )


def predictor(module: "nn.Module") -> Callable[[Array], NDArray[np.float32]]:
    """`module` as a function of numpy batches -> float32 logits [B, classes]."""
    import torch

    def predict(batch: Array) -> NDArray[np.float32]:
        with torch.inference_mode():
            # Tensors made from request bytes are read-only, which torch warns about: it gets a copy of its own.
            logits: NDArray[np.float32] = module(torch.from_numpy(np.array(batch))).numpy()
        return logits

    return predict
