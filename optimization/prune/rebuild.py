"""Rebuild: a pruned model from data alone, as a module and as an Artifact."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from optimization.prune.cut import Cut
from training.artifact import MODEL_FILE, Artifact, write_artifact
from training.encoding import Encoding
from training.models.architecture import Architecture, build


def smaller(architecture: Architecture, made: Cut) -> Architecture:
    """`architecture` with the sizes that a cut left; those that an earlier one left stay where this one cut nothing."""
    return dataclasses.replace(architecture, sizes={**architecture.sizes, **made.sizes})


def rebuilt(architecture: Architecture, encoding: Encoding, made: Cut) -> nn.Module:
    """What `made` is of the module that `architecture` builds, in eval mode."""
    module = build(smaller(architecture, made), encoding)
    module.load_state_dict(made.weights)
    return module.eval()


def write_weights(
    folder: Path, variant: str, source: Artifact, architecture: Architecture, weights: Mapping[str, Tensor]
) -> Artifact:
    """`source` with other weights, and with the architecture that they are of; it is the parent of what is written."""
    from safetensors.torch import save

    manifest = source.manifest
    return write_artifact(
        folder,
        {MODEL_FILE["torch"]: save(dict(weights)), **source.encoding_files()},
        name=manifest.name,
        variant=variant,
        task=manifest.task,
        format="torch",
        precision=manifest.precision,
        encoding=manifest.encoding,
        input=manifest.input,
        output=manifest.output,
        architecture=architecture,
        parent=source.digest,
    )
