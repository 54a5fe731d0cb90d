"""Publish: a registered Version pruned, its rest trained, and what came of it registered as the next Version."""

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimization.prune.fine_tune import School
from optimization.prune.sensitivity import measure_sensitivity, sensitivity_plot
from optimization.prune.settings import Prune, Sparsify
from optimization.prune.structured import Pruned, prune
from optimization.prune.unstructured import Sparsified, sparsify
from training.artifact import Artifact, load_artifact
from training.launch.job import Compute
from training.lineage import version_tags
from training.module import load_module
from training.recipe import Recipe, flatten
from training.registry import Registry, Run, Version
from training.task import Source, Split, Task, load_task

SENSITIVITY_ROWS = 1000


@dataclass(frozen=True)
class Order:
    """What is asked for, beside the Version: the pass, and where and by which recipe its model learns again."""

    settings: Prune | Sparsify
    recipe_reference: str
    recipe: Recipe
    source: Source
    compute: Compute = dataclasses.field(default_factory=Compute)
    sensitivity: bool = False  # measure first what each layer can lose, and draw it

    def __post_init__(self) -> None:
        if self.sensitivity and (isinstance(self.settings, Sparsify) or self.settings.unit != "channels"):
            raise ValueError("sensitivity is of layers that lose channels: it is not measured for weights or blocks")


def prune_version(version: Version, order: Order, registry: Registry, cache_dir: Path) -> Version:
    """The Version that `order` makes of `version`. It gets no alias: `optimization.build` and its gate judge it.

    Nothing is registered unless all of it succeeded. Raises ValueError where the Version, the recipe and the data do
    not belong together, PruneError where its model cannot be pruned as asked, and what trainings raise.
    """
    whole = load_artifact(registry.fetch(version, cache_dir))
    task = _task(whole, version, order)
    with (
        registry.start_run(task.name, f"prune {version.reference}", {"tandem.teacher": version.reference}) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        run.log_params({**flatten(order.recipe), **_flat("prune", dataclasses.asdict(order.settings))})
        if isinstance(order.settings, Prune) and order.sensitivity:
            _log_sensitivity(whole, task, order.settings, run)
        school = School(order.recipe, order.source, order.compute, registry.tracking_uri, run.run_id)
        made: Pruned | Sparsified
        if isinstance(order.settings, Prune):
            made = prune(whole, task, order.settings, school, Path(scratch))
        else:
            made = sparsify(whole, task, order.settings, school, Path(scratch))
        run.log_text(json.dumps(made.to_json(), indent=1), "prune.json")
        run.log_metrics({f"prune/{name}": value for name, value in made.metrics().items()})
        tags = version_tags(order.recipe_reference, order.recipe.task_params, order.source, task, made.artifact) | {
            "tandem.teacher_version": version.reference,
            "tandem.prune": json.dumps(dataclasses.asdict(order.settings)),
            "tandem.val_accuracy": f"{made.metrics()['val_accuracy']:.4f}",
        }
        return registry.publish(task.name, made.artifact.folder, run, tags)


def _task(whole: Artifact, version: Version, order: Order) -> Task:
    if order.recipe.task != whole.manifest.task:
        raise ValueError(
            f"the recipe {order.recipe_reference!r} is for {order.recipe.task!r}, {version.reference} is of "
            f"{whole.manifest.task!r}: a pruned model learns its own task again"
        )
    task = load_task(whole.manifest.task, order.source, order.recipe.task_params)
    if task.data_hash != version.tags.get("tandem.data_hash"):
        raise ValueError(
            f"{version.reference} was trained on other data than {order.source.location or whole.manifest.task} "
            "holds: pass the --data-dir that it was trained with"
        )
    return task


def _log_sensitivity(whole: Artifact, task: Task, settings: Prune, run: Run) -> None:
    import torch

    from optimization.prune.criteria import unit_scores
    from optimization.prune.dependencies import find_channels

    module, train, val = load_module(whole), task.splits["train"], task.splits["val"]
    channels = find_channels(module, torch.from_numpy(train.inputs[:4].copy()))
    scores = unit_scores(module, channels.groups, settings, train)
    some = Split(val.inputs[:SENSITIVITY_ROWS], val.labels[:SENSITIVITY_ROWS])
    found = measure_sensitivity(module, channels, scores, some)
    run.log_text(json.dumps(found.to_json(), indent=1), "sensitivity.json")
    run.log_figures({"sensitivity": sensitivity_plot(found)})


def _flat(prefix: str, settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": value}
    return flat
