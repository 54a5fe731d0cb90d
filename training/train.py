"""`python -m training.train RECIPE`: train, evaluate, report and register a teacher."""

import argparse
import contextlib
import dataclasses
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from training.artifact import Artifact
from training.checkpoint.store import SupersededError
from training.evaluation.closing import evaluate_and_log
from training.launch.here import is_first
from training.launch.job import Compute, Interrupted, Observation, Trained, TrainJob, content_of, identity_of
from training.launch.priority import give_way
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.lineage import version_tags
from training.loop.training import TrainingError
from training.models.architecture import check, self_contained
from training.module import load_module, predictor, write_torch
from training.observe.sections import recovery_section, time_section
from training.options import absolute_path, add_training_arguments, read_compute, read_observation, read_source
from training.recipe import Recipe, flatten, override
from training.recipes import load_recipe
from training.registry import Registry, RegistryError, Run, Version
from training.task import Source, Task, load_task

CANDIDATE = "candidate"
RECOVERIES_FILE = "recoveries.json"
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
    compute.require_room_for(observation)
    task, job = prepare(recipe, source, registry.tracking_uri, observation, init_from)
    kept = RunFolder(compute.folder(job))
    with _open_run(kept, registry, reference, task, job) as run:
        with _written_down(kept, run):
            trained = run_training(dataclasses.replace(job, run_id=run.run_id), compute)
        run.log_metrics(trained.breakdown.metrics() if trained.breakdown else {})
        _keep_to_its_share(compute)
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
        registry.promote(version.name, version.number, CANDIDATE)
    kept.clear()
    return version


def _open_run(kept: RunFolder, registry: Registry, reference: str, task: Task, job: TrainJob) -> Run:
    """The run that an interrupted training began, under way again, or a new one."""
    run_id = kept.run_id()
    status = registry.status(run_id) if run_id else None
    if run_id and status not in (None, "FINISHED"):
        run = registry.run(run_id)
        run.reopen()
        return run
    if status == "FINISHED":
        kept.clear()  # registered; only the clearing was cut off
    run = registry.start_run(
        task.name, f"train {reference}", {"tandem.recipe": reference, "tandem.data_hash": task.data_hash}
    )
    run.log_params(flatten(job.recipe))
    kept.remember_run(run.run_id)
    return run


@contextlib.contextmanager
def _written_down(kept: RunFolder, run: Run) -> Iterator[None]:
    """Within it a training runs. What was written down of it goes into `run`, also where it fails."""

    def log() -> None:
        run.log_files(kept.files())
        befell = [dataclasses.asdict(recovery) for recovery in kept.recoveries()]
        run.log_text(json.dumps(befell, indent=1), RECOVERIES_FILE)

    try:
        yield
    except SupersededError:
        raise  # the other one writes into the run
    except BaseException:
        with contextlib.suppress(OSError, RegistryError):  # what went wrong first is what is told
            log()
        raise
    log()


def _keep_to_its_share(compute: Compute) -> None:
    """The evaluation runs in this process, with what a worker was given; beside replicas it gives way as workers do."""
    import torch

    torch.set_num_threads(compute.threads)
    if not compute.local:
        give_way()


def prepare(
    recipe: Recipe, source: Source, tracking_uri: str, observation: Observation, init_from: Path | None
) -> tuple[Task, TrainJob]:
    """The task and the job, which has no MLflow run yet; raises ValueError for a model that there is not."""
    check(recipe.architecture)
    recipe = dataclasses.replace(recipe, architecture=self_contained(recipe.architecture))
    task = load_task(recipe.task, source, recipe.task_params)
    identity = identity_of(recipe, task.data_hash, content_of(init_from) if init_from else "")
    return task, TrainJob(recipe, source, tracking_uri, "", identity, init_from=init_from, observation=observation)


def told_of(trained: Trained) -> list[str]:
    """What the report says of the training itself."""
    times = [time_section(trained.breakdown)] if trained.breakdown else []
    return [*times, recovery_section(trained.recoveries)]


def write_torch_artifact(
    folder: Path, variant: str, recipe: Recipe, task: Task, trained: Trained, parent: str | None
) -> Artifact:
    return write_torch(folder, variant, trained.weights, recipe.architecture, task, recipe.task, parent)


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
    except (OSError, ValueError, TrainingError) as error:
        sys.exit(f"training.train: {error}")
    print(
        f"registered {version.reference} (alias {CANDIDATE}); "
        f"next: python -m optimization.build {version.name}@{CANDIDATE}"
    )


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("training.train").main()
