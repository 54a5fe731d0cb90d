"""work(): what each worker does, under whatever launched it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.checkpoint.journal import Journal
from training.checkpoint.keeper import Keeper
from training.checkpoint.sample_log import SampleLog
from training.checkpoint.saver import AsyncSaver
from training.launch.epoch_log import EpochLog
from training.launch.job import Compute, TrainJob
from training.launch.run_folder import LOG_FILE, TRACE_FILE, Attempt, RunFolder
from training.loop.fit import fit
from training.loop.losses import make_loss
from training.loop.training import Training, TrainingError
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.architecture import build
from training.models.pretrained import load_pretrained
from training.models.recompute import recompute_activations
from training.models.weights import load_weights
from training.observe.json_log import JsonLog
from training.observe.profile import Profile
from training.observe.progress import ProgressBar
from training.observe.tensorboard import TensorBoard
from training.observe.timing import Timing
from training.task import load_task

if TYPE_CHECKING:
    from torch import nn


def work(
    job: TrainJob,
    compute: Compute,
    worker: Worker,
    more: Sequence[Watcher] = (),
    is_urgent: Callable[[], bool] = lambda: False,
) -> Training:
    """Train from the newest checkpoint on, or from the beginning; `.finished` says whether it came to its end.

    While `is_urgent` says that a worker will soon be gone, checkpoints are written in quick succession.
    """
    import torch

    torch.set_num_threads(compute.threads)
    torch.manual_seed(job.recipe.seed)
    task = load_task(job.recipe.task, job.source, job.recipe.task_params)
    module = build(job.recipe.architecture, task.encoding)
    if job.recipe.recompute_activations:
        recompute_activations(module)
    folder = RunFolder(compute.folder(job))
    attempt = folder.begin_attempt(worker)
    if attempt.state is not None and worker.rank == 0:
        epoch, step = attempt.state["position"]
        print(f"going on at epoch {epoch}, step {step}", flush=True)
        for name, reason in attempt.rejected.items():
            print(f"passed over {name}: {reason}", flush=True)
    if attempt.state is None:
        _begin_with_weights(job, module, worker)
    if job.wrap:
        module = job.wrap(module)
    loss = make_loss(job.recipe, task.splits["train"].labels, len(task.encoding.labels))
    try:
        return fit(
            job.recipe, module, task.encoding, task.splits["train"], task.splits["val"],
            loss=job.make_loss(module, loss) if job.make_loss else loss, worker=worker, start=attempt.state,
            until_epoch=job.until_epoch, plan=compute.plan,
            watchers=[
                *_watchers(job, compute, worker, folder, attempt, is_urgent),
                *(job.make_watchers(worker) if job.make_watchers else ()),
                *more,
            ],
        )  # fmt: skip
    except TrainingError as error:
        if worker.rank == 0:
            folder.ledger.add("failed", attempt.number, cause=str(error))
        kept = folder.store.newest()
        where = f"kept as {kept.checkpoint.name} in {compute.folder(job)}" if kept else "not kept yet"
        raise TrainingError(f"{error}; the state before it is {where}") from error


def _begin_with_weights(job: TrainJob, module: "nn.Module", worker: Worker) -> None:
    """Load what the architecture asks for, and over it what the job does; the first worker tells what fitted."""
    reports = [load_pretrained(module, job.recipe.architecture)]
    if job.init_from:
        reports.append(load_weights(module, job.init_from))
    for report in reports:
        if report is not None and worker.rank == 0:
            print(report, flush=True)


def _watchers(
    job: TrainJob, compute: Compute, worker: Worker, folder: RunFolder, attempt: Attempt, is_urgent: Callable[[], bool]
) -> list[Watcher]:
    local = folder.local_path
    saver = AsyncSaver(folder.store, attempt.number, worker.world_size) if worker.rank == 0 else None
    is_sharded = not compute.plan.shape(worker.world_size).is_plain
    keeper = Keeper(saver, compute.checkpoint_every_s, compute.checkpoint_every_epochs, is_urgent, is_sharded)
    made: list[Watcher] = [keeper] if is_sharded and worker.rank else []
    if worker.rank == 0:
        made = [
            Journal(folder.ledger, attempt.number, local / "mark" if local else None, attempt.rejected),
            ProgressBar(),
            EpochLog(job),
            keeper,
            Timing(),
        ]  # fmt: skip
        if job.observation.tensorboard:
            made.append(TensorBoard(job.observation.tensorboard))
        if local:
            made.append(JsonLog(local / LOG_FILE, job.run_id))
        if job.observation.profile:
            made.append(Profile(_path(compute, local, "a profile") / TRACE_FILE))
    if job.observation.samples:
        made.insert(0, SampleLog(_path(compute, local, "a log of samples") / "samples", attempt.number, worker.rank))
    return made


def _path(compute: Compute, local: Path | None, what: str) -> Path:
    if local is None:
        raise ValueError(f"{what} is written to a file system; the storage is {compute.storage}")
    return local
