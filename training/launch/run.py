"""run_training(): a job in this process, under torchrun, or on Ray Train's workers."""

from training.launch.job import Compute, Interrupted, Trained, TrainJob
from training.launch.run_folder import RunFolder


def run_training(job: TrainJob, compute: Compute) -> Trained:
    """Train `job` as `compute` says, from where it was interrupted if it was, to its end or to `job.until_epoch`.

    Raises TrainingError where training cannot go on or its workers fail for good, and Interrupted where it was asked
    to stop. What is kept stays until the run folder is cleared.
    """
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
    assert found is not None, "a training that finished has been kept"
    from training.loop.training import EpochRecord

    records = tuple(EpochRecord(**record) for record in found.state["records"])
    return Trained(found.state["best"]["weights"], records, folder.recoveries(), folder.breakdown())
