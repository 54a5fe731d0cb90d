"""work(): what each worker does, under whatever launched it."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from training.checkpoint.journal import Journal
from training.checkpoint.keeper import Keeper
from training.checkpoint.sample_log import SampleLog
from training.checkpoint.saver import AsyncSaver
from training.checkpoint.store import CheckpointError, SupersededError
from training.launch.epoch_log import EpochLog
from training.launch.harmless import Harmless
from training.launch.job import Compute, TrainJob
from training.launch.memory import keep_freed_memory
from training.launch.run_folder import LOG_FILE, TRACE_FILE, Attempt, RunFolder
from training.loop.fit import fit
from training.loop.losses import make_loss
from training.loop.training import MemoryRanOutError, Training, TrainingError, smaller_part
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.pretrained import load_pretrained
from training.models.untrained import untrained
from training.models.weights import load_weights
from training.observe.json_log import JsonLog
from training.observe.profile import Profile
from training.observe.tensorboard import TensorBoard
from training.observe.timing import Timing
from training.task import load_task

if TYPE_CHECKING:
    from torch import nn


def work(
    job: TrainJob,
    compute: Compute,
    worker: Worker,
    owner: str,
    more: Sequence[Watcher] = (),
    is_urgent: Callable[[], bool] = lambda: False,
    notes_faults: bool = True,
) -> Training:
    """Train from the newest checkpoint on, or from the beginning; `.finished` says whether it came to its end.

    `owner` stands for the command that this start comes of (`CheckpointStore.begin_attempt`). While `is_urgent` says
    that a worker will soon be gone, checkpoints are written in quick succession. Why an attempt ended is noted in the
    ledger here, unless the launcher notes faults, since it knows more of them. Raises what fit() does, and where the
    training was claimed by another owner SupersededError: before the first step in all workers, later in those that
    save, when all have stopped.
    """
    import torch

    keep_freed_memory()
    torch.set_num_threads(compute.threads)
    task = load_task(job.recipe.task, job.source, job.recipe.task_params)
    module = untrained(job.recipe, task.encoding)
    folder = RunFolder(compute.folder(job), compute.keep_last)
    attempt = folder.begin_attempt(worker, owner)
    if worker.rank == 0:
        _say_where_from(attempt)
    if attempt.found is None:
        _begin_with_weights(job, module, worker)
    if job.wrap:
        module = job.wrap(module)
    loss = make_loss(job.recipe, task.splits["train"].labels, len(task.encoding.labels))
    recipe = dataclasses.replace(job.recipe, micro_batch=smaller_part(job.recipe.micro_batch, attempt.micro_batch))
    try:
        with contextlib.ExitStack() as stack:
            saver = None
            # Where the model is cut among the workers, each keeps what it holds.
            if worker.rank == 0 or not compute.plan.shape(worker.world_size).is_plain:
                saver = stack.enter_context(AsyncSaver(folder.store, attempt.claim, worker.world_size))
            return fit(
                recipe, module, task.encoding, task.splits["train"], task.splits["val"],
                loss=job.make_loss(module, loss) if job.make_loss else loss, worker=worker,
                start=folder.start(attempt),
                until_epoch=job.until_epoch, plan=compute.plan,
                watchers=[
                    *more,
                    *_watchers(job, compute, worker, folder, attempt, saver, is_urgent),
                    *(job.make_watchers(worker) if job.make_watchers else ()),
                ],
            )  # fmt: skip
    except (Exception, KeyboardInterrupt) as error:
        # By now the write that was under way is over.
        told: BaseException = error
        if isinstance(error, TrainingError):
            told = TrainingError(f"{error}; the state before it is {_where_kept(folder, compute.folder(job))}")
        micro_batch = error.micro_batch if isinstance(error, MemoryRanOutError) else 0
        if micro_batch or (worker.rank == 0 and (notes_faults or isinstance(error, TrainingError | SupersededError))):
            _note(folder, attempt, told, micro_batch)
        if told is error:
            raise
        raise told from error


def _say_where_from(attempt: Attempt) -> None:
    if attempt.found is not None:
        print(f"going on at epoch {attempt.found.checkpoint.epoch}, step {attempt.found.checkpoint.step}", flush=True)
    if attempt.micro_batch:
        print(f"memory ran out before: on with {attempt.micro_batch} rows at once", flush=True)
    for name, reason in attempt.rejected.items():
        print(f"passed over {name}: {reason}", flush=True)


def _note(folder: RunFolder, attempt: Attempt, error: BaseException, micro_batch: int) -> None:
    """Write into the ledger why the attempt ended, where there still is one: who overtook it may have ended, too.

    With what the next one had better begin, too: no checkpoint can be kept while others wait for this worker.
    """
    with contextlib.suppress(OSError):
        if folder.store.last_claim() is not None:
            first_line = (str(error).splitlines() or [""])[0]
            told = isinstance(error, TrainingError | SupersededError)
            cause = first_line if told else f"{type(error).__name__}: {first_line}".rstrip(": ")
            folder.ledger.add("failed", attempt.claim.number, cause=cause, micro_batch=micro_batch)


def _where_kept(folder: RunFolder, url: str) -> str:
    try:
        kept = folder.store.newest()
    except (CheckpointError, OSError) as error:
        return f"not to be found: {error}"
    return f"kept as {kept.checkpoint.name} in {url}" if kept else "not kept yet"


def _begin_with_weights(job: TrainJob, module: "nn.Module", worker: Worker) -> None:
    """Load what the architecture asks for, and over it what the job does; the first worker tells what fitted."""
    reports = [load_pretrained(module, job.recipe.architecture)]
    if job.init_from:
        reports.append(load_weights(module, job.init_from))
    for report in reports:
        if report is not None and worker.rank == 0:
            print(report, flush=True)


def _watchers(
    job: TrainJob,
    compute: Compute,
    worker: Worker,
    folder: RunFolder,
    attempt: Attempt,
    saver: AsyncSaver | None,
    is_urgent: Callable[[], bool],
) -> list[Watcher]:
    local, seen = folder.local_path, job.observation
    made: list[Watcher] = []
    if saver is not None:
        made.append(Keeper(saver, compute.checkpoint_every_s, compute.checkpoint_every_epochs, is_urgent))
    if worker.rank == 0:
        journal = Journal(folder.ledger, attempt.claim, local / "mark" if local else None, attempt.rejected)
        made = [*made, Harmless(EpochLog(job, compute.tell)), journal, Timing()]
        if seen.tensorboard:
            made.append(Harmless(TensorBoard(seen.tensorboard)))
        if local:
            made.append(Harmless(JsonLog(local / LOG_FILE, job.run_id)))
        if local and seen.profile:
            made.append(Harmless(Profile(local / TRACE_FILE)))
    if local and seen.samples:
        made.insert(0, SampleLog(local / "samples", attempt.claim.number, worker.rank))
    return made
