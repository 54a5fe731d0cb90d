"""What a cascade study reads: graphs of its models, their logits, and rows that no model was made from.

Shape suffixes: N rows, C classes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimization.runners.open import open_runner
from optimization.variants import float_variant, int8_variant, threshold_split
from training.artifact import Artifact, load_artifact
from training.encoding import Array
from training.evaluation.scores import predict_in_batches
from training.task import Split, Task

# So many are enough; a study shows what they can promise.
CALIBRATION_ROWS = 1_000


def cut_rows(task: Task, ranges: Task) -> dict[str, Split]:
    """The calibration, gate and report rows of `task`, at most 1,000 of the first.

    `ranges` is the task whose calibration split set quantizer ranges: where it is the same, these rows are left out.
    """
    fresh = threshold_split(task) if ranges is task else task.splits["calibration"]
    # Some sets lie in the order of their makers: the cut is random, and always the same.
    rows = np.sort(np.random.default_rng(0).permutation(len(fresh))[:CALIBRATION_ROWS])
    calibration = Split(fresh.inputs[rows], fresh.labels[rows])
    return {"calibration": calibration, "gate": task.splits["gate"], "report": task.splits["report"]}


def variants_of(models: Mapping[str, Artifact], ranges: Task, folder: Path, threads: int = 1) -> dict[str, Artifact]:
    """`NAME-fp32` and `NAME-int8` of every PyTorch model, made once and kept in `folder`; a graph is taken as it is."""
    made: dict[str, Artifact] = {}
    for name, source in models.items():
        if source.manifest.format == "onnx":
            made[name] = source
            continue
        home = folder / source.digest[:16]
        names = [f"{name}-fp32", f"{name}-int8"]
        if not all((home / variant).is_dir() for variant in names):
            exact = float_variant(names[0], source, ranges, home, threads)
            int8_variant(names[1], exact, ranges, home, threads)
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
