"""Load a Version from the registry into a Batcher that is warm."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from apps.batching.batcher import Batcher, BatchLimits
from apps.observe.metered import CountedAs
from apps.observe.tracing import TraceArgs
from optimization.runners.open import open_runner
from training.artifact import Artifact, ArtifactError, load_artifact
from training.encoding import Array, Encoder, Encoding, TextEncoding
from training.registry import Registry, Version

# A text model's pace is learned on texts of this many tokens, and corrected by live ones.
WARM_UP_TOKENS = 32


Batching = Literal["tandem", "ray"]


@dataclass(frozen=True)
class ModelSource:
    """What a replica needs to load its model by itself; small enough to be sent to it.

    `batching` "ray" leaves the batches to Serve's own timer, for comparison. `counted_as` None counts nothing.
    """

    version: Version
    tracking_uri: str
    cache_dir: str
    limits: BatchLimits
    threads: int
    batching: Batching = "tandem"
    counted_as: CountedAs | None = None
    trace: TraceArgs | None = None

    def fetch(self) -> Artifact:
        """The verified Artifact; raises RegistryError or ArtifactError.

        A PyTorch model may name code of its maker's (`module:callable`): to serve it would run what a registry names.
        """
        registry = Registry(self.tracking_uri)
        artifact = load_artifact(registry.fetch(self.version, Path(self.cache_dir).expanduser()))
        architecture = artifact.manifest.architecture
        if artifact.manifest.format == "torch" and architecture is not None and ":" in architecture.name:
            raise ArtifactError(
                f"{self.version.reference} would run the code {architecture.name!r}: export it to ONNX and serve that"
            )
        return artifact


def open_batcher(artifact: Artifact, source: ModelSource) -> Batcher:
    """A Batcher over the Artifact's Runner, which has run every batch size already."""
    encoding = artifact.manifest.encoding
    pad_id = encoding.pad_id if isinstance(encoding, TextEncoding) else 0
    batcher = Batcher(open_runner(artifact, source.threads), source.limits, pad_id)
    batcher.warm_up(sample_row(encoding))
    return batcher


def warm_up(encoder: Encoder) -> None:
    """Read one payload, so that no request pays for the imports of the first."""
    if isinstance(encoder.encoding, TextEncoding):
        encoder.encode("a")
        return
    drawing = io.BytesIO()
    Image.linear_gradient("L").save(drawing, "PNG")
    encoder.encode(drawing.getvalue())


def sample_row(encoding: Encoding) -> Array:
    """A row without meaning that the model accepts."""
    spec = encoding.input_spec
    if isinstance(encoding, TextEncoding):
        return np.full(min(encoding.max_tokens, WARM_UP_TOKENS), 1, dtype=spec.dtype)
    return np.zeros(spec.shape[1:], dtype=spec.dtype)
