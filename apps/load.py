"""Load a Version from the registry into a Batcher that is warm."""

import io
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from apps.args import RunnerArgs
from apps.batching.batcher import Batcher, BatchLimits
from apps.observe.metered import CountedAs, RunsOn
from apps.observe.tracing import TraceArgs
from optimization.runners.contract import BackendUnavailableError, Runner, RunnerError
from optimization.runners.open import open_runner
from optimization.runners.profile import ShapeProfile, profile_for
from training.artifact import Artifact, ArtifactError, load_artifact
from training.encoding import Array, Encoder, Encoding, TextEncoding
from training.registry import Registry, Version

# A text model's pace is learned on texts of this many tokens, and corrected by live ones.
WARM_UP_TOKENS = 32
# Native code is compiled for batches of any size, and fastest for these: what a replica under usual load runs.
USUAL_ROWS, USUAL_TOKENS = 8, 64

logger = logging.getLogger("ray.serve")

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
    runner: RunnerArgs = field(default_factory=RunnerArgs)
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


def open_batcher(artifact: Artifact, source: ModelSource) -> tuple[Batcher, RunsOn]:
    """A Batcher over the Artifact's Runner, which has run every batch size already, and what that really runs on.

    Raises RunnerError where the backend that `source` names cannot run the Artifact, here or at all.
    """
    encoding = artifact.manifest.encoding
    pad_id = encoding.pad_id if isinstance(encoding, TextEncoding) else 0
    runner = _open(artifact, source)
    runs_on = RunsOn(runner.device, runner.precision)
    logger.info("%s runs on %s in %s", source.version.reference, runs_on.device, runs_on.precision)
    batcher = Batcher(runner, source.limits, pad_id)
    batcher.warm_up(sample_row(encoding))
    return batcher, runs_on


def _open(artifact: Artifact, source: ModelSource) -> Runner:
    asked = source.runner
    try:
        return open_runner(
            artifact,
            source.threads,
            asked.backend,
            asked.allow_fallback,
            Path(source.cache_dir).expanduser() / "native",
            _shapes(artifact, source.limits),
        )
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"{source.version.reference} is to run by {asked.backend}, which this machine cannot do: {error}; or name "
            "another backend under `runners` in serve_config.yaml, or set allow_fallback there to run it on the CPU"
        ) from error
    except RunnerError as error:
        raise RunnerError(f"{source.version.reference} cannot be served by {asked.backend}: {error}") from error


def _shapes(artifact: Artifact, limits: BatchLimits) -> ShapeProfile:
    """What a Batcher may ask for: no more rows than a full batch has, and no more tokens than an Encoding leaves."""
    encoding, rows = artifact.manifest.encoding, limits.max_batch_rows
    tokens = encoding.max_tokens if isinstance(encoding, TextEncoding) else 1
    return profile_for(
        artifact.manifest.input, (1, min(USUAL_ROWS, rows), rows), (1, min(USUAL_TOKENS, tokens), tokens)
    )


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
