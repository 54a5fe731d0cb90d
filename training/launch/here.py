"""Train in this process: alone, or as one of those that torchrun started."""

import contextlib
import datetime
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator

from training.launch.job import Compute, TrainJob
from training.launch.stop import StopWhen, on_termination
from training.launch.work import work
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.observe.progress import ProgressBar
from training.parallel.closing import close_process_group
from training.parallel.plan import Plan

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process speaks for all: it alone logs, evaluates and registers."""
    return int(os.environ.get("RANK", "0")) == 0 or not is_under_torchrun()


def train_here(job: TrainJob, compute: Compute) -> Training:
    """fit() in this process. SIGTERM ends it between two steps, with all of it kept."""
    asked = threading.Event()
    watchers: list[Watcher] = [StopWhen(asked.is_set)]
    if is_first() and sys.stdout.isatty():
        watchers.append(ProgressBar())
    with _workers(compute.plan) as worker, on_termination(asked.set):
        return work(job, compute, worker, _owner(), watchers)


def _owner() -> str:
    """Whose the training is. torchrun starts its workers again by itself: all that come of one are one owner's."""
    if not is_under_torchrun():
        return uuid.uuid4().hex
    import psutil

    agent = psutil.Process(os.getppid())
    return f"{socket.gethostname()}-{agent.pid}-{agent.create_time()}"


@contextlib.contextmanager
def _workers(plan: Plan) -> Iterator[Worker]:
    """This process among those of torchrun, connected with them; alone without it."""
    import torch

    gpu = torch.cuda.is_available()
    if not is_under_torchrun():
        yield Worker(device="cuda" if gpu else "cpu")
        return
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if os.environ.get("MASTER_ADDR") in LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # or Gloo looks for the host's name, which may be no address
    if gpu:
        torch.cuda.set_device(local_rank)
    device = f"cuda:{local_rank}" if gpu else "cpu"
    timeout = datetime.timedelta(seconds=plan.timeout_s)
    torch.distributed.init_process_group(plan.backend(device), timeout=timeout)
    try:
        yield Worker(rank, world_size, device)
    finally:
        close_process_group()
