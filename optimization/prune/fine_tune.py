"""Fine-tune: what pruning left learns again, by the recipe of its model and under whatever launches a training."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optimization.distill.distillation import Distillation
from optimization.distill.parameters import Distill
from optimization.distill.teacher import TeacherPlace
from optimization.prune.settings import FineTune
from training.artifact import Artifact
from training.launch.job import Compute, Trained, TrainJob, identity_of
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.recipe import Recipe
from training.task import Source, Task


@dataclass(frozen=True)
class School:
    """Where a pruned model learns again, and the recipe that its model once learned by."""

    recipe: Recipe
    source: Source
    compute: Compute = field(default_factory=Compute)
    tracking_uri: str = ""
    run_id: str = ""  # of MLflow; empty: epochs are told to `compute.tell` alone


def fine_tune(
    start: Artifact,
    whole: Artifact,
    task: Task,
    settings: FineTune,
    school: School,
    make_watchers: Callable[[Worker], Sequence[Watcher]] | None = None,
) -> Trained:
    """Train on from `start`; `whole` is the model before pruning, which may teach. Raises what trainings raise."""
    assert start.manifest.architecture is not None, "what is pruned is a PyTorch model"
    recipe = dataclasses.replace(
        school.recipe,
        architecture=start.manifest.architecture,
        epochs=settings.epochs,
        optimizer=dataclasses.replace(school.recipe.optimizer, lr=school.recipe.optimizer.lr * settings.lr_share),
        early_stopping=0,
    )
    teaching = None
    if settings.learn_from == "distil":
        taught = Distill(temperature=settings.temperature, soft_share=settings.soft_share)
        teaching = Distillation(TeacherPlace(whole.folder), taught, recipe.precision)
    job = TrainJob(
        recipe,
        school.source,
        school.tracking_uri,
        school.run_id,
        identity_of(recipe, task.data_hash, start.digest, str(settings)),
        init_from=start.folder,
        make_loss=teaching,
        make_watchers=make_watchers,
    )
    trained = run_training(job, school.compute)
    RunFolder(school.compute.folder(job)).clear()
    return trained
