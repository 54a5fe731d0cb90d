"""Train on Ray Train's workers: the one door to Ray Train.

Ray Train starts the workers, again when one was lost, and fewer or more where it may. Where a training goes on from is
not its matter: each group of workers looks for the newest whole checkpoint itself.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Callable
from typing import Any

from training.checkpoint.folder import Folder
from training.checkpoint.store import SupersededError
from training.cluster import connect, has_gpus
from training.launch.follow import can_follow, followed
from training.launch.harmless import Harmless
from training.launch.job import Compute, Interrupted, TrainJob
from training.launch.priority import give_way
from training.launch.run_folder import RunFolder
from training.launch.stop import StopWhen, on_termination
from training.launch.work import work
from training.loop.training import TrainingError
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.observe.progress import ProgressReports

MAX_RESTARTS = 3
# Ray Train's defaults suit jobs of days: every 2 s it looks whether its workers live, every 5 s whether a node will go.
# Looking ten times a second took a tenth of a processor. Ray Train hands them on from the process that calls it, so
# they hold on any cluster, and in a sweep's trials.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Its own copy of what workers print would show every line twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def train_on_ray(job: TrainJob, compute: Compute) -> None:
    """fit() on workers of the cluster at RAY_ADDRESS, or of one started for it; what comes of it is in the run folder.

    SIGTERM ends the training between two steps, as Interrupted. Raises TrainingError where training cannot go on or
    its workers fail for good, and SupersededError where the same command was started elsewhere.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    connect()
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = RunFolder(compute.folder(job))
    owner = uuid.uuid4().hex
    # A name of its own each time: Ray Train would take up what it remembers of an earlier run of the same name.
    name = f"{job.name}-{owner[:8]}"
    remembered = Folder(f"{compute.storage.rstrip('/')}/.ray-train")
    workers = compute.workers if compute.min_workers is None else (compute.min_workers, compute.workers)
    gpus = compute.gpus
    if gpus is None:
        gpus = float(has_gpus(compute.min_workers or compute.workers))
    is_followed = can_follow(folder)
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"job": job, "compute": compute, "owner": owner, "is_followed": is_followed},
        torch_config=TorchConfig(
            backend=compute.plan.backend("cuda" if gpus else "cpu"), timeout_s=int(compute.plan.timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=workers,  # type: ignore[arg-type]  # Train V2's takes a range
            use_gpu=gpus > 0,
            elastic_resize_monitor_interval_s=compute.grow_after_s,  # type: ignore[call-arg]  # Train V2's
            resources_per_worker={"CPU": compute.cpus, **({"GPU": gpus} if gpus else {}), **compute.resources},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # at run time this is Train V2's
            name=name,
            storage_path=remembered.path(),
            storage_filesystem=None if remembered.is_local else remembered.filesystem,
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="WARNING"),  # the epochs' own lines say how it goes
            callbacks=[_faults(compute.folder(job), owner)],
        ),
    )
    try:
        following = followed(folder) if is_followed else contextlib.nullcontext()
        with on_termination(lambda: folder.ask_to_stop(owner)), following:
            _fit(trainer)
    finally:
        with contextlib.suppress(OSError):
            remembered.remove(name)
    _require_end(folder, owner)


def _require_end(folder: RunFolder, owner: str) -> None:
    """Raises what the workers of `owner` ended with, where it was not the end of the training."""
    claim = folder.store.last_claim()
    if claim is None or claim.owner != owner:
        raise SupersededError(
            f"the training in {folder.store.url} was overtaken: the same command runs elsewhere, or has ended there"
        )
    said = [event for event in folder.ledger.events() if event["attempt"] == claim.number]
    if said and said[-1]["kind"] == "stopped":
        raise Interrupted(f"{said[-1]['cause']}; the same command goes on")
    if said and said[-1]["kind"] == "failed":
        raise TrainingError(said[-1]["cause"])


def _fit(trainer: Any) -> None:
    """`trainer.fit()`; raises TrainingError with the end of what its workers said when they failed."""
    from ray.train import TrainingFailedError

    try:
        trainer.fit()
    except TrainingFailedError as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise TrainingError(f"the workers failed {MAX_RESTARTS + 1} times, at last with: {said[-1]}") from error


def _faults(url: str, owner: str) -> Any:
    """What writes into the ledger, from Ray Train's controller, why a group of workers ended."""
    from ray.train import UserCallback

    class Faults(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            folder = RunFolder(url)
            said = {rank: str(error).strip().splitlines() or [""] for rank, error in worker_exceptions.items()}
            cause = "; ".join(f"worker {rank}: {_brief(lines[-1])}" for rank, lines in sorted(said.items()))
            claim = folder.store.last_claim()
            if claim is not None and claim.owner == owner:
                folder.ledger.add("failed", claim.number, cause=cause)

    return Faults()


def _brief(line: str) -> str:
    """The first sentence: Ray goes on with all that may have been the matter."""
    return line.strip().split(". ")[0][:200]


def _ray_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    _quiet_ray_train()
    give_way()
    job, compute, owner = config["job"], config["compute"], config["owner"]
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), str(ray.train.torch.get_device()))
    folder = RunFolder(compute.folder(job))
    watchers: list[Watcher] = []
    if worker.rank == 0:
        watchers.append(StopWhen(lambda: folder.is_asked_to_stop(owner)))
        if config["is_followed"]:
            watchers.append(Harmless(ProgressReports(folder.report)))
    try:
        work(job, compute, worker, owner, watchers, is_urgent=_preemption_told(), notes_faults=False)
    except SupersededError:
        return  # all workers have stopped, and another start must not overtake in its turn
    except TrainingError as error:
        if _ran_out_of_memory(error):
            raise  # this worker alone: the others still wait for it
        # All workers found the same and it would happen again: the ledger has it, and another start would not help.


def _ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether that is at the root of `error`."""
    import torch

    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__
    return error is not None


def _preemption_told() -> Callable[[], bool]:
    """Whether Ray has announced that a node of this group will go.

    `ray.train.get_preemption_info()` asks all workers at once, a round through the controller; what this worker was
    told lies in its context.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    told = get_train_context().preemption_context
    return lambda: told.preemption_info is not None


def _quiet_ray_train() -> None:
    """Every report and checkpoint would be told on the console; some of its loggers are named by their file's path."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("ray.train") or "/ray/train/" in name:
            logging.getLogger(name).setLevel(logging.WARNING)
