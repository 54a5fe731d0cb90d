"""distill(): the pass from a teacher's Artifact to a student's."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from optimization.distill.distillation import Distillation
from optimization.distill.hinted import student_weights
from optimization.distill.parameters import Distill
from optimization.distill.teacher import TeacherPlace
from training.artifact import Artifact
from training.launch.job import Compute, Trained, TrainJob, content_of, identity_of
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.models.architecture import build
from training.recipe import Recipe
from training.task import Source, Task
from training.train import write_torch_artifact


def distill(
    teacher: TeacherPlace,
    parameters: Distill,
    recipe: Recipe,
    task: Task,
    source: Source,
    compute: Compute,
    folder: Path,
    *,
    variant: str = "student",
    tracking_uri: str = "",
    run_id: str = "",
) -> Artifact:
    """Train the student of `recipe` under the teacher; the Artifact (format "torch") in the new folder `folder`, whose
    parent is the teacher.

    `source` is where `task` was read from. One that was interrupted is gone on with by the same call. Epochs are logged
    to the MLflow run `run_id` where one is given. Raises ValueError where teacher, student and task do not belong
    together, TrainingError where training cannot go on, and Interrupted where it was asked to stop.
    """
    artifact = teacher.artifact()
    require_same_reading(artifact, recipe, task)
    distillation = Distillation(teacher, parameters, recipe.precision)
    if parameters.hints:
        if compute.plan.pipeline > 1:
            raise ValueError(
                f"hints with pipeline {compute.plan.pipeline}: a process has some of the layers alone; leave out one "
                "of the two"
            )
        distillation.wrap(build(recipe.architecture, task.encoding))  # refused here, before workers are started
    job = TrainJob(
        recipe,
        source,
        tracking_uri,
        run_id,
        identity_of(recipe, task.data_hash, artifact.digest, json.dumps(lesson_of(parameters))),
        init_from=Path(parameters.init_from).resolve() if parameters.init_from else None,
        make_loss=distillation,
        wrap=distillation.wrap if parameters.hints else None,
    )
    trained = run_training(job, compute)
    made = write_torch_artifact(
        folder, variant, recipe, task, _without_projections(trained, parameters), parent=artifact.digest
    )
    RunFolder(compute.folder(job)).clear()
    return made


def lesson_of(parameters: Distill) -> dict[str, Any]:
    """What makes a distillation what it is beside its recipe, teacher and data: by what it begins with, not where."""
    begun = content_of(Path(parameters.init_from)) if parameters.init_from else ""
    return parameters.to_json() | {"student": None, "settings": [], "init_from": begun}  # the recipe says the first two


def require_same_reading(teacher: Artifact, recipe: Recipe, task: Task) -> None:
    """Raises ValueError where a row would mean something else to the teacher than to the student."""
    if recipe.task != teacher.manifest.task:
        raise ValueError(
            f"the student's recipe is for {recipe.task!r}, the teacher is of {teacher.manifest.task!r}: "
            "a student learns its teacher's task"
        )
    reason = teacher.misreads(task.encoding, task.files)
    if reason:
        raise ValueError(
            f"the teacher {reason}: a student must read as its teacher does; give the task the data and the parameters "
            "that the teacher was trained with"
        )


def _without_projections(trained: Trained, parameters: Distill) -> Trained:
    if not parameters.hints:
        return trained
    return dataclasses.replace(trained, weights=student_weights(trained.weights))
