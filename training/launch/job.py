"""What is to be trained, on what, and what comes of it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from training.address import is_uri
from training.artifact import MANIFEST_FILE, sha256_of
from training.parallel.plan import Plan
from training.recipe import Recipe, flatten
from training.task import Source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.checkpoint.ledger import Recovery
    from training.loop.losses import Loss
    from training.loop.training import EpochRecord
    from training.loop.watcher import Watcher
    from training.loop.worker import Worker
    from training.observe.breakdown import Breakdown


# How much nicer than others a training's processes on the cluster are: an epoch may take longer, a request may not.
GIVES_WAY = 10


@dataclass(frozen=True)
class Observation:
    """What is written down of a training beside its figures."""

    # Both are written beside the checkpoints, which must be in a file system then.
    samples: bool = False  # which rows each step read
    profile: bool = False  # a trace of some steps by torch's profiler
    tensorboard: Path | None = None


@dataclass(frozen=True)
class TrainJob:
    """What a worker needs to train. What it calls there (`wrap`, `make_loss`, `make_watchers`) must be picklable.

    `identity` says which training it is: one that was interrupted is gone on with by the job of the same identity.
    """

    recipe: Recipe
    source: Source
    tracking_uri: str
    run_id: str
    identity: str
    until_epoch: int | None = None  # stop after it, with all of it kept
    init_from: Path | None = None  # a file of weights, or an Artifact, to begin with
    # The recipe's module -> what is trained in its place, such as the module beside parts that training alone needs.
    # What comes of the training are the weights of what it returns.
    wrap: "Callable[[nn.Module], nn.Module] | None" = None
    # The module in training and the recipe's own loss -> the loss to train by.
    make_loss: "Callable[[nn.Module, Loss], Loss] | None" = None
    observation: Observation = Observation()
    # What else looks on.
    make_watchers: "Callable[[Worker], Sequence[Watcher]] | None" = None

    @property
    def name(self) -> str:
        return f"{self.recipe.task.replace(':', '.').replace('/', '.')}-{self.identity[:12]}"


def identity_of(recipe: Recipe, *parts: str) -> str:
    """A hash of the recipe and of all else that makes a training what it is: its data, its teacher."""
    described = json.dumps([{key: str(value) for key, value in flatten(recipe).items()}, *parts], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def content_of(init_from: Path) -> str:
    """What a file of weights, or an Artifact, holds, wherever it lies: a manifest has the hashes of its files."""
    file = init_from / MANIFEST_FILE if init_from.is_dir() else init_from
    if not file.is_file():
        raise ValueError(f"init_from {init_from}: there is neither a file of weights nor an Artifact")
    return sha256_of(file)


def say(line: str) -> None:
    """On the terminal, at once."""
    print(line, flush=True)


@dataclass(frozen=True)
class Compute:
    """Where a training runs, on how much, how often it is kept, and who is told of its epochs.

    `storage` is a path or URL that every node can reach; a training's checkpoints lie there until it is registered.
    With `min_workers` Ray Train goes on with fewer workers, down to so many, when nodes are lost, and with up to
    `workers` when they are back.
    """

    workers: int = 1
    min_workers: int | None = None
    grow_after_s: float = 60.0  # with fewer than `workers`, look so often whether there is room for more
    threads: int = 1  # of each worker
    cpus: float = 1.0  # that Ray reserves for each worker: a share of the cluster, not a bound
    gpus: float | None = None  # the same of GPUs; None: one where the cluster has as many as workers
    # Of Ray's own-named resources, for each worker: they keep a training on the nodes that have them.
    resources: Mapping[str, float] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)  # how the workers share the work of one model
    local: bool = False  # in this process, without Ray
    storage: str = ".tandem/train"
    checkpoint_every_s: float = 60.0
    checkpoint_every_epochs: int = 1
    keep_last: int = 2  # checkpoints; the best weights are part of each
    tell: Callable[[str], None] = say  # a line an epoch, in the first worker: picklable unless that is this process

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise ValueError(f"{self.workers} workers of {self.threads} threads: there must be at least one of each")
        if self.local and self.workers > 1:
            raise ValueError(f"{self.workers} workers need Ray or torchrun: leave out --local, or train with one")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ValueError(f"min_workers is {self.min_workers}: it must lie in 1..{self.workers}")
        if not self.local:
            self.plan.shape(self.workers)  # refuses a number of workers that it cannot arrange
        if not self.checkpoint_every_s > 0 or self.checkpoint_every_epochs < 1:
            raise ValueError(
                f"a checkpoint every {self.checkpoint_every_s} s and {self.checkpoint_every_epochs} epochs: "
                "both must be above 0"
            )
        if self.keep_last < 1:
            raise ValueError(f"keep_last is {self.keep_last}: at least the last checkpoint must be kept")

    def require_room_for(self, observation: Observation) -> None:
        """Raises ValueError where the storage cannot take what is to be written down; ask before anything starts."""
        asked = [name for name in ("samples", "profile") if getattr(observation, name)]
        if asked and is_uri(self.storage) and not self.storage.startswith("file://"):
            raise ValueError(
                f"{' and '.join(asked)} would be written step by step, and {self.storage} is no file system: pass a "
                "--storage that is a path, or leave them out"
            )

    def folder(self, job: TrainJob) -> str:
        """Where the training of `job` keeps its checkpoints and its ledger."""
        return f"{self.storage.rstrip('/')}/{job.name}"


@dataclass(frozen=True)
class Trained:
    weights: "Mapping[str, Tensor]"
    records: "tuple[EpochRecord, ...]"
    recoveries: "tuple[Recovery, ...]" = ()
    breakdown: "Breakdown | None" = None  # of the first worker, since it was last started


class Interrupted(Exception):  # noqa: N818  # it is no error: the training stopped because it was asked to
    """The training stopped between two steps, and everything is kept: the same command goes on with it."""
