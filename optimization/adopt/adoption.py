"""adopt(): a model that was not trained here becomes a Version, as if it had been.

Shape suffixes: B rows, C classes.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimization.adopt.origin import Origin
from optimization.runners.open import open_runner
from training.artifact import Artifact
from training.encoding import Array, TextEncoding
from training.evaluation.scores import Evaluation, evaluate, predict_in_batches
from training.lineage import version_tags
from training.registry import Registry, Version
from training.task import Source, Task, load_task
from training.train import CANDIDATE

ORIGIN_TAG = "tandem.origin"
TRIED_ROWS = 16
# Sums of another order differ by less; an answer that depends on the rows beside it differs by more.
MAX_DIFFERENCE = 1e-2


class AdoptionError(ValueError):
    """A model that does not answer as a classifier of its task must."""


@dataclass(frozen=True)
class Adoption:
    """What is to be adopted, and the task that it was trained for."""

    origin: Origin
    task: str
    source: Source
    task_params: Mapping[str, Any] = field(default_factory=dict)


def adopt(request: Adoption, registry: Registry, threads: int = 1) -> tuple[Version, Evaluation]:
    """Register the model as its task's `candidate` Version, from which a build can start; returns it with its scores.

    Its accuracy is of the gate split: the splits before it may hold what the model was trained with. Raises ValueError
    where the model or its answers are not sound; nothing is registered before all of it was examined.
    """
    task = load_task(request.task, request.source, request.task_params)
    with tempfile.TemporaryDirectory() as scratch:
        artifact = request.origin.write(Path(scratch) / "adopted", request.task, task)
        scores = examine(artifact, task, threads)
        origin = request.origin.described()
        with registry.start_run(task.name, f"adopt {artifact.manifest.format}", {ORIGIN_TAG: origin}) as run:
            run.log_metrics({f"gate/{name}": value for name, value in scores.metrics().items()})
            tags = version_tags("", request.task_params, request.source, task, artifact)
            tags |= {ORIGIN_TAG: origin, "tandem.gate_accuracy": f"{scores.accuracy:.4f}"}
            version = registry.publish(task.name, artifact.folder, run, tags)
            registry.promote(version.name, version.number, CANDIDATE)
    return version, scores


def examine(artifact: Artifact, task: Task, threads: int = 1) -> Evaluation:
    """Run the model as it lies in its Artifact, and score it on the gate split.

    Raises AdoptionError where it answers with probabilities, with numbers that are not finite, or a row otherwise
    when others stand beside it; RunnerError where it does not run.
    """
    runner = open_runner(artifact, threads)
    gate = task.splits["gate"]
    _require_rows_apart(runner, gate.inputs[:TRIED_ROWS], task)
    logits_BC = predict_in_batches(runner, gate.inputs)
    if not np.isfinite(logits_BC).all():
        rows = int((~np.isfinite(logits_BC)).any(axis=1).sum())
        raise AdoptionError(f"{rows} of {len(gate)} rows of the gate split have logits that are not finite")
    if logits_BC.min() >= 0 and np.allclose(logits_BC.sum(axis=1), 1, atol=1e-3):
        raise AdoptionError(
            "the model answers with probabilities: export it without its softmax, since distillation and the cascade "
            "soften logits"
        )
    return evaluate(logits_BC, gate.labels, task.encoding.labels)


def _require_rows_apart(run: Callable[[Array], Array], inputs: Array, task: Task) -> None:
    """A server puts together whatever comes: no row's answer may depend on the others, nor on how far it is padded."""
    classes = len(task.encoding.labels)
    try:
        together_BC = np.asarray(run(inputs))
        alone_BC = np.concatenate([np.asarray(run(_alone(row[None], task))) for row in inputs])
    except ValueError:
        raise
    except Exception as error:  # a runtime's own, with no common root
        said = " ".join(str(error).split())[:300]
        raise AdoptionError(f"the model cannot run batches of {len(inputs)} rows and of one: {said}") from error
    for answer in (together_BC, alone_BC):
        if answer.shape != (len(inputs), classes):
            raise AdoptionError(f"{len(inputs)} rows are answered with {answer.shape}, not {len(inputs), classes}")
    difference = float(np.abs(together_BC - alone_BC).max())
    if difference > MAX_DIFFERENCE * max(1.0, float(np.abs(alone_BC).max())):
        raise AdoptionError(
            f"a row's logits change by {difference:.2g} with the rows beside it: export the model in evaluation mode, "
            "and let it mask padding"
        )


def _alone(row_1L: Array, task: Task) -> Array:
    """A text without its padding, as it comes alone."""
    if not isinstance(task.encoding, TextEncoding):
        return row_1L
    return row_1L[:, : max(1, int((row_1L != task.encoding.pad_id).sum()))]


def doubt(scores: Evaluation) -> str | None:
    """What to say of a model that knows no more of the task than its most frequent class."""
    most_frequent = max(one.support for one in scores.classes) / scores.rows
    if scores.interval[0] > most_frequent:
        return None
    return (
        f"its accuracy of {scores.accuracy:.2%} is no better than always answering the most frequent class "
        f"({most_frequent:.2%}): is the order of its classes the task's, and are its inputs scaled as in its training?"
    )
