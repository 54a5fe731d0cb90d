"""The command line options that commands share: where data lies, and on what a training runs."""

import argparse
import os
from pathlib import Path
from typing import Any

from training.address import absolute_location
from training.launch.job import Compute, Observation
from training.parallel.plan import add_plan_arguments, read_plan
from training.task import Source


def absolute_path(text: str) -> Path:
    """For paths that travel to workers, which may run in another folder."""
    return Path(text).resolve()


def storage_url(text: str) -> str:
    """A URL as it is, a path made absolute."""
    return text if "://" in text else str(absolute_path(text))


def _resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    return name, float(amount)


def add_source_arguments(parser: Any) -> None:
    """The options that every command has that reads a task's data."""
    parser.add_argument(
        "--data-dir", type=absolute_location, metavar="PLACE", help="the task's files: folder, file, s3:// or gs://"
    )
    parser.add_argument("--data-cache", type=absolute_path, default=".tandem/data", help="where they are packed")
    parser.add_argument("--download", action="store_true", help="fetch missing files from their official place")


def add_training_arguments(parser: Any) -> None:
    """The options that every command that trains has."""
    add_source_arguments(parser)
    parser.add_argument("--num-workers", type=int, default=1, help="Ray Train workers (default 1)")
    parser.add_argument("--min-workers", type=int, help="go on with so few when nodes are lost")
    parser.add_argument("--threads", type=int, help="of each worker (default: all cores but one, shared among them)")
    parser.add_argument("--cpus", type=float, default=1.0, help="that Ray reserves for each worker (default 1)")
    parser.add_argument(
        "--resource", action="append", default=[], type=_resource, metavar="NAME=AMOUNT", help="of Ray's, a worker"
    )
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray; also under torchrun")
    parser.add_argument(
        "--storage", type=storage_url, default=".tandem/train", help="where checkpoints go: a path, s3://..., gs://..."
    )
    parser.add_argument("--checkpoint-every-s", type=float, default=60.0, help="default 60")
    parser.add_argument("--checkpoint-every-epochs", type=int, default=1, help="default 1; the end is kept anyhow")
    parser.add_argument("--keep-last", type=int, default=2, help="so many checkpoints stay (default 2)")
    add_plan_arguments(parser)
    parser.add_argument("--tensorboard", type=absolute_path, metavar="FOLDER", help="write TensorBoard's event files")
    parser.add_argument("--profile", action="store_true", help="trace some steps with torch's profiler")
    parser.add_argument("--log-samples", action="store_true", help="write down which rows each step read")


def read_source(arguments: argparse.Namespace, location: str | None) -> Source:
    """The files at `location`, as the options say that they are to be read."""
    here = getattr(arguments, "local", True)  # a command that has no such option trains on no cluster
    return Source(location, arguments.download, "local" if here else "auto", arguments.data_cache)


def read_compute(arguments: argparse.Namespace) -> Compute:
    """What `add_training_arguments` was given. One core stays free by default: threads that wait for a core
    which a server or another training holds make a step many times slower.
    """
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes on this machine, this one included
    threads = arguments.threads or max(1, ((os.cpu_count() or 1) - 1) // max(1, arguments.num_workers, neighbours))
    return Compute(
        workers=arguments.num_workers,
        min_workers=arguments.min_workers,
        threads=threads,
        cpus=arguments.cpus,
        resources=dict(arguments.resource),
        local=arguments.local,
        plan=read_plan(arguments),
        storage=arguments.storage,
        checkpoint_every_s=arguments.checkpoint_every_s,
        checkpoint_every_epochs=arguments.checkpoint_every_epochs,
        keep_last=arguments.keep_last,
    )


def read_observation(arguments: argparse.Namespace) -> Observation:
    return Observation(arguments.log_samples, arguments.profile, arguments.tensorboard)
