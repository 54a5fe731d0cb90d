"""Given ResNets: trained CIFAR-10 weights of others as FP32 and INT8 graphs, their logits, and a cut of the test rows.

The weights are those of github.com/akamaster/pytorch_resnet_cifar10; whoever has the files names their folder. They saw
all 50,000 training images, so only the 10,000 test images are new to them.

Shape suffixes: N rows, C classes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimization.runners.open import open_runner
from optimization.variants import float_variant, int8_variant
from training.artifact import MODEL_FILE, Artifact, load_artifact, write_artifact
from training.data.readers import row_keys
from training.encoding import Array, output_spec
from training.evaluation.scores import predict_in_batches
from training.models.architecture import Architecture, build
from training.task import Split, Task

FILES = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CALIBRATION_ROWS, GATE_ROWS = 1_000, 4_000


def official_test(task: Task) -> Split:
    """The official test images: what the task divides into gate and report, put together again."""
    gate, report = task.splits["gate"], task.splits["report"]
    return Split(np.concatenate([gate.inputs, report.inputs]), np.concatenate([gate.labels, report.labels]))


def cut_rows(test: Split) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indices of 1,000 calibration, 4,000 gate and the other report rows, by a hash of each row's content."""
    if len(test) <= CALIBRATION_ROWS + GATE_ROWS:
        raise ValueError(f"{len(test)} rows cannot be cut into {CALIBRATION_ROWS}, {GATE_ROWS} and some to report on")
    # Not by the very hash that the task's own splits are drawn by, which would make these a part of those.
    drawn = [hashlib.sha256(b"given" + key).digest() for key in row_keys(test.inputs)]
    order = np.array(sorted(range(len(drawn)), key=drawn.__getitem__))
    parts = np.split(order, [CALIBRATION_ROWS, CALIBRATION_ROWS + GATE_ROWS])
    calibration, gate, report = (np.sort(part) for part in parts)
    return calibration, gate, report


def given_variants(task: Task, weights: Path, folder: Path, threads: int = 1) -> dict[str, Artifact]:
    """`resnet20-fp32`, `resnet20-int8` and the same of ResNet-56, made once and kept in `folder`.

    The INT8 ranges come from 512 training images (the task's calibration split, without their labels), so that no test
    image has shaped the models. Raises ValueError where the weights are not there or do not fit.
    """
    made: dict[str, Artifact] = {}
    for name, file in FILES.items():
        source = _source(task, name, weights / file, folder / name)
        names = [f"{name}-fp32", f"{name}-int8"]
        if not all((folder / variant).is_dir() for variant in names):
            exact = float_variant(names[0], source, task, folder, threads)
            int8_variant(names[1], exact, task, folder, threads)
        made |= {variant: load_artifact(folder / variant) for variant in names}
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


def _source(task: Task, name: str, weights: Path, folder: Path) -> Artifact:
    if folder.is_dir():
        return load_artifact(folder)
    from safetensors.torch import save

    from training.models.weights import load_all_weights

    architecture = Architecture(name, PIXELS)
    module = build(architecture, task.encoding)
    load_all_weights(module, weights)
    return write_artifact(
        folder,
        {MODEL_FILE["torch"]: save(module.state_dict())},
        name=task.name,
        variant=name,
        task="cifar10",
        format="torch",
        precision="fp32",
        encoding=task.encoding,
        input=task.encoding.input_spec,
        output=output_spec(task.encoding),
        architecture=architecture,
        parent=None,
    )
