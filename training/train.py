"""`python -m training.train RECIPE`: train, evaluate, report and register a teacher."""

import argparse
import dataclasses
import importlib
import sys
import tempfile
from pathlib import Path

from training.artifact import MODEL_FILE, Artifact, write_artifact
from training.encoding import output_spec
from training.evaluation.closing import evaluate_and_log
from training.launch.here import is_first
from training.launch.job import Compute, Interrupted, Observation, Trained, TrainJob, identity_of
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.lineage import version_tags
from training.loop.training import TrainingError
from training.models.architecture import check, self_contained
from training.module import load_module, predictor
from training.observe.sections import recovery_section, time_section
from training.options import absolute_path, add_training_arguments, read_compute, read_observation, read_source
from training.recipe import Recipe, flatten, override
from training.recipes import load_recipe
from training.registry import Registry, Version
from training.task import Source, Task, load_task

CANDIDATE = "candidate"
EXIT_INTERRUPTED = 143  # what a shell says of a command that SIGTERM ended


def train(
    reference: str,
    recipe: Recipe,
    source: Source,
    registry: Registry,
    compute: Compute = Compute(),  # noqa: B008
    observation: Observation = Observation(),  # noqa: B008
    init_from: Path | None = None,
) -> Version:
    """Train by `recipe`, evaluate, register the Artifact as the task's `candidate` Version and return it.

    Nothing is registered unless all of it succeeded. A training that was interrupted is gone on with, in the MLflow
    run that it began; it is known by its recipe, its data and the weights of `init_from` that it began with.
    """
    task, job = prepare(recipe, source, registry.tracking_uri, observation, init_from)
    kept = RunFolder(compute.folder(job))
    run = registry.resume_run(kept.run_id() or "")
    if run is None:
        kept.clear()
        started = {"tandem.recipe": reference, "tandem.data_hash": task.data_hash}
        run = registry.start_run(task.name, f"train {reference}", started)
        run.log_params(flatten(job.recipe))
        kept.remember_run(run.run_id)
    with run:
        trained = run_training(dataclasses.replace(job, run_id=run.run_id), compute)
        with tempfile.TemporaryDirectory() as scratch:
            artifact = write_torch_artifact(
                Path(scratch) / "teacher", "teacher", job.recipe, task, trained, parent=None
            )
            predict = predictor(load_module(artifact))
            title = f"{task.name} teacher by recipe {reference}"
            accuracy = evaluate_and_log(task, predict, trained.records, run, title, told_of(trained))
            tags = version_tags(reference, job.recipe.task_params, source, task, artifact) | {
                "tandem.val_accuracy": f"{accuracy:.4f}"
            }
            version = registry.publish(task.name, artifact.folder, run, tags)
        run.log_files(kept.files())
        run.log_metrics(trained.breakdown.metrics() if trained.breakdown else {})
        registry.promote(version.name, version.number, CANDIDATE)
    kept.clear()
    return version


def prepare(
    recipe: Recipe, source: Source, tracking_uri: str, observation: Observation, init_from: Path | None
) -> tuple[Task, TrainJob]:
    """The task and the job, which has no MLflow run yet; raises ValueError for a model that there is not."""
    check(recipe.architecture)
    recipe = dataclasses.replace(recipe, architecture=self_contained(recipe.architecture))
    task = load_task(recipe.task, source, recipe.task_params)
    identity = identity_of(recipe, task.data_hash, str(init_from or ""))
    return task, TrainJob(recipe, source, tracking_uri, "", identity, init_from=init_from, observation=observation)


def told_of(trained: Trained) -> list[str]:
    """What the report says of the training itself."""
    times = [time_section(trained.breakdown)] if trained.breakdown else []
    return [*times, recovery_section(trained.recoveries)]


def write_torch_artifact(
    folder: Path, variant: str, recipe: Recipe, task: Task, trained: Trained, parent: str | None
) -> Artifact:
    from safetensors.torch import save

    files = {MODEL_FILE["torch"]: save(dict(trained.weights)), **task.files}
    return write_artifact(
        folder,
        files,
        name=task.name,
        variant=variant,
        task=recipe.task,
        format="torch",
        precision="fp32",
        encoding=task.encoding,
        input=task.encoding.input_spec,
        output=output_spec(task.encoding),
        architecture=recipe.architecture,
        parent=parent,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.train", description="Train a teacher and register it.")
    add_training_arguments(parser)
    parser.add_argument("recipe", help="a named recipe (training/recipes.py) or module:callable")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. optimizer.lr=0.1")
    parser.add_argument("--init-from", type=absolute_path, help="a file of weights, or an Artifact, to begin with")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        recipe = override(load_recipe(arguments.recipe), arguments.set)
        source = read_source(arguments, arguments.data_dir)
        compute = read_compute(arguments)
        observation, init_from = read_observation(arguments), arguments.init_from
        if not is_first():  # one of torchrun's: it trains along, and leaves the rest to the first
            run_training(prepare(recipe, source, "", observation, init_from)[1], compute)
            return
        version = train(arguments.recipe, recipe, source, Registry(), compute, observation, init_from)
    except Interrupted as stop:
        print(f"training.train: {stop}", flush=True)
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, TrainingError) as error:
        sys.exit(f"training.train: {error}")
    print(
        f"registered {version.reference} (alias {CANDIDATE}); "
        f"next: python -m optimization.build {version.name}@{CANDIDATE}"
    )


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("training.train").main()
