"""The models of a cascade study as graphs, and their logits. Shape suffixes: N rows, C classes."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimization.runners.open import open_runner
from optimization.variants import float_variant, int8_variant
from training.artifact import Artifact, load_artifact
from training.encoding import Array
from training.evaluation.scores import predict_in_batches
from training.task import Task


def variant_names(name: str, model: Artifact) -> tuple[str, ...]:
    """What a model competes as: a PyTorch model in FP32 and in INT8, a graph as it is."""
    return (name,) if model.manifest.format == "onnx" else (f"{name}-fp32", f"{name}-int8")


def variants_of(models: Mapping[str, Artifact], ranges: Task, folder: Path, threads: int = 1) -> dict[str, Artifact]:
    """Every model's graphs by their names, made once and kept in `folder`, with ranges from the calibration split of
    `ranges`.
    """
    made: dict[str, Artifact] = {}
    for name, source in models.items():
        if source.manifest.format == "onnx":
            made[name] = source
            continue
        home = folder / f"{name}-{source.digest[:16]}-{ranges.data_hash[:8]}"
        names = variant_names(name, source)
        if not home.is_dir():
            scratch = home.with_suffix(".part")  # what a kill leaves half made is made anew
            shutil.rmtree(scratch, ignore_errors=True)
            exact = float_variant(names[0], source, ranges, scratch, threads)
            int8_variant(names[1], exact, ranges, scratch, threads)
            scratch.rename(home)
        made |= {variant: load_artifact(home / variant) for variant in names}
    return made


def cached_logits(
    artifacts: Mapping[str, Artifact], inputs: Array, folder: Path, threads: int = 1
) -> dict[str, NDArray[np.float32]]:
    """Logits [N, C] of every Artifact on `inputs`, computed once and kept in `folder` under both their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = hashlib.sha256(json.dumps([str(inputs.dtype), *inputs.shape]).encode())
    rows.update(np.ascontiguousarray(inputs).data)
    found = {}
    for name, artifact in artifacts.items():
        path = folder / f"{artifact.digest[:16]}-{rows.hexdigest()[:16]}.npy"
        if not path.is_file():
            logits_NC = predict_in_batches(open_runner(artifact, threads), inputs)
            scratch = path.with_suffix(".part.npy")
            np.save(scratch, logits_NC)
            scratch.rename(path)
        found[name] = np.load(path)
    return found
