"""Run fit() in this process or on Ray Train's workers: the one door to Ray Train.

Workers killed on the way are started again from the last checkpoint of a finished epoch.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.checkpoint import load_checkpoint, save_checkpoint
from training.loop.fit import EpochRecord, Loss, TrainingError, Worker, fit
from training.models.architecture import build
from training.recipe import Recipe
from training.registry import Registry
from training.task import Source, load_task

if TYPE_CHECKING:
    from torch import Tensor

MAX_RESTARTS = 3


@dataclass(frozen=True)
class TrainJob:
    """What a worker needs to train. `make_loss` is called on the worker; it must be picklable."""

    recipe: Recipe
    source: Source
    tracking_uri: str
    run_id: str
    make_loss: Callable[[], Loss] | None = None


@dataclass(frozen=True)
class Compute:
    """Where a training runs, and on how much. `storage` holds its checkpoints; every node must see it."""

    workers: int = 1
    threads: int = 1  # of each worker
    local: bool = False  # in this process, without Ray
    storage: Path = Path(".tandem/train")

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise ValueError(f"{self.workers} workers of {self.threads} threads: there must be at least one of each")
        if self.local and self.workers > 1:
            raise ValueError(f"{self.workers} workers need Ray: leave out --local, or train with one")


@dataclass(frozen=True)
class Trained:
    weights: Mapping[str, "Tensor"]
    records: tuple[EpochRecord, ...]


def run_training(job: TrainJob, compute: Compute) -> Trained:
    """fit() as `compute` says. Raises TrainingError where training cannot go on or its workers fail for good."""
    return _train_here(job, compute.threads) if compute.local else _train_on_ray(job, compute)


def _train_here(job: TrainJob, threads: int) -> Trained:
    records: list[EpochRecord] = []
    log = _EpochLog(job)

    def on_epoch(record: EpochRecord, state: dict[str, Any]) -> None:
        records.append(record)
        log(record)

    weights = _fit(job, threads, Worker(device=_device()), None, on_epoch)
    return Trained(weights, tuple(records))


def _train_on_ray(job: TrainJob, compute: Compute) -> Trained:
    """fit() on Ray Train workers of the cluster at RAY_ADDRESS, or of one started for it."""
    # Ray Train's controller looks for reports every 2 s by default: a short epoch would wait for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    # Its own copy of what workers print would show every line twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    _connect()
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    name = f"{job.recipe.task.replace(':', '.')}-{job.run_id[:8]}"
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"job": job, "threads": compute.threads},
        scaling_config=ScalingConfig(num_workers=compute.workers, use_gpu=_has_gpus(compute.workers)),
        run_config=RunConfig(  # type: ignore[call-arg]  # at run time this is Train V2's
            name=name,
            storage_path=str(compute.storage.resolve()),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),  # the epochs' own lines say how it goes
        ),
    )
    result = _result(trainer)
    if result.checkpoint is None:
        raise RuntimeError(f"training ended without a checkpoint; see {compute.storage / name}")
    with result.checkpoint.as_directory() as folder:
        state = load_checkpoint(Path(folder))
    shutil.rmtree(compute.storage / name, ignore_errors=True)
    return Trained(state["best"]["weights"], tuple(EpochRecord(**record) for record in state["records"]))


def _result(trainer: Any) -> Any:
    """What `trainer.fit()` returns; raises TrainingError with the end of what its workers said when they failed."""
    from ray.train import TrainingFailedError

    try:
        return trainer.fit()
    except TrainingFailedError as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise TrainingError(f"the workers failed {MAX_RESTARTS + 1} times, at last with: {said[-1]}") from error


def _ray_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    _quiet_ray_train()
    # Beside replicas on the same machine: an epoch may take longer, a request may not.
    os.nice(10)
    job: TrainJob = config["job"]
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), str(ray.train.torch.get_device()))
    start = None
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            start = load_checkpoint(Path(folder))
        print(f"resuming after epoch {start['epoch']}", flush=True)
    log = _EpochLog(job) if worker.rank == 0 else None

    def on_epoch(record: EpochRecord, state: dict[str, Any]) -> None:
        metrics = {"epoch": record.epoch, "val_accuracy": record.val_accuracy}
        if log is None:
            ray.train.report(metrics)
            return
        log(record)
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(Path(folder), state)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    _fit(job, config["threads"], worker, start, on_epoch)


def _fit(
    job: TrainJob,
    threads: int,
    worker: Worker,
    start: dict[str, Any] | None,
    on_epoch: Callable[[EpochRecord, dict[str, Any]], None],
) -> "dict[str, Tensor]":
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(job.recipe.seed)
    task = load_task(job.recipe.task, job.source)
    module = build(job.recipe.architecture, task.encoding)
    loss = job.make_loss() if job.make_loss else None
    return fit(
        job.recipe, module, task.encoding, task.splits["train"], task.splits["val"],
        loss=loss, worker=worker, start=start, on_epoch=on_epoch,
    )  # fmt: skip


class _EpochLog:
    """Prints one line an epoch and sends the same figures to the MLflow run."""

    def __init__(self, job: TrainJob) -> None:
        self._epochs = job.recipe.epochs
        self._run = Registry(job.tracking_uri).run(job.run_id)

    def __call__(self, record: EpochRecord) -> None:
        left_s = (self._epochs - record.epoch) * record.seconds
        print(
            f"epoch {record.epoch:>3}/{self._epochs}  loss {record.train_loss:.4f}  val loss {record.val_loss:.4f}  "
            f"val accuracy {record.val_accuracy:.2%}  {record.samples_per_s:,.0f} samples/s  {left_s:.0f} s left",
            flush=True,
        )
        figures = {
            "train_loss": record.train_loss,
            "val_loss": record.val_loss,
            "val_accuracy": record.val_accuracy,
            "learning_rate": record.learning_rate,
            "samples_per_s": record.samples_per_s,
        }
        self._run.log_metrics(figures, step=record.epoch)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _quiet_ray_train() -> None:
    """Every report and checkpoint would be told on the console; some of its loggers are named by their file's path."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("ray.train") or "/ray/train/" in name:
            logging.getLogger(name).setLevel(logging.WARNING)


def _has_gpus(workers: int) -> bool:
    """Whether the cluster has a GPU for every worker; each then gets one. Asked for more, Ray would wait for ever."""
    import ray

    return bool(ray.cluster_resources().get("GPU", 0) >= workers)  # type: ignore[no-untyped-call]


def _connect() -> None:
    """Join the cluster at RAY_ADDRESS, or start one for this training: a bare ray.init() would join any that runs."""
    own = "RAY_ADDRESS" not in os.environ
    if own:
        # Loopback alone, and so no tokens; without the last, Ray takes the network card's address for 127.0.0.1.
        for name, value in (
            ("RAY_AUTH_MODE", "disabled"),
            ("RAY_USAGE_STATS_ENABLED", "0"),
            ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"),
        ):
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    if own:
        # Ray Train's actors ask the dashboard how each other does, and complain every few seconds where there is none.
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",
            dashboard_host="127.0.0.1",
            include_dashboard=True,
            object_store_memory=150 * 2**20,
        )
    else:
        ray.init(address=os.environ["RAY_ADDRESS"])
