"""An Artifact's trained nn.Module, rebuilt from its architecture and safetensors; no pickle is read."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.artifact import Artifact, ArtifactError
from training.encoding import Array
from training.models.architecture import build

if TYPE_CHECKING:
    from torch import nn


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


def predictor(module: "nn.Module") -> Callable[[Array], NDArray[np.float32]]:
    """`module` as a function of numpy batches -> float32 logits [B, classes]."""
    import torch

    def predict(batch: Array) -> NDArray[np.float32]:
        with torch.inference_mode():
            # Tensors made from request bytes are read-only, which torch warns about: it gets a copy of its own.
            logits: NDArray[np.float32] = module(torch.from_numpy(np.array(batch))).numpy()
        return logits

    return predict
