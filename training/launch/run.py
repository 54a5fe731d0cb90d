"""run_training(): a job in this process, under torchrun, or on Ray Train's workers."""

from collections.abc import Mapping
from typing import Any

from training.launch.job import Compute, Interrupted, Trained, TrainJob
from training.launch.run_folder import RunFolder


def run_training(job: TrainJob, compute: Compute) -> Trained:
    """Train `job` as `compute` says, from where it was interrupted if it was, to its end or to `job.until_epoch`.

    Raises TrainingError where training cannot go on or its workers fail for good, Interrupted where it was asked to
    stop, and SupersededError where the same command was started elsewhere. What is kept stays until the run folder is
    cleared.
    """
    compute.require_room_for(job.observation)
    folder = RunFolder(compute.folder(job))
    if compute.local:
        from training.launch.here import train_here

        training = train_here(job, compute)
        if not training.finished and not training.paused:
            position = training.position
            raise Interrupted(f"stopped at epoch {position.epoch}, step {position.step}; the same command goes on")
        return Trained(training.best.weights, training.records, folder.recoveries(), folder.breakdown())
    from training.launch.on_ray import train_on_ray

    train_on_ray(job, compute)
    found = folder.store.newest()
    from training.loop.training import EpochRecord, TrainingError

    if found is None or not _is_the_end(found.state, job):
        where = f"epoch {found.checkpoint.epoch}, step {found.checkpoint.step}" if found else "nothing"
        raise TrainingError(f"the workers ended, and what they kept in {folder.store.url} is {where}, not the end")
    records = tuple(EpochRecord(**record) for record in found.state["records"])
    return Trained(found.state["best"]["weights"], records, folder.recoveries(), folder.breakdown())


def _is_the_end(state: Mapping[str, Any], job: TrainJob) -> bool:
    """Whether `state` is of a training that came to its end, or as far as the job was to go."""
    last_epoch = min(job.recipe.epochs, job.until_epoch or job.recipe.epochs)
    return bool(state["stopped_early"] or state["position"][0] > last_epoch)
