"""RunFolder: where one training keeps its checkpoints, its ledger and its marks, from the first start to its end."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.checkpoint.folder import Folder
from training.checkpoint.ledger import Ledger, Recovery, recoveries
from training.checkpoint.store import KEEP_LAST, CheckpointStore, Claim, Found, SupersededError
from training.observe.bar import Progress
from training.observe.breakdown import Breakdown

if TYPE_CHECKING:
    from training.loop.training import Training
    from training.loop.worker import Worker

RUN_FILE = "mlflow-run"
STOPS = "stop"
LOG_FILE = "log.jsonl"
TRACE_FILE = "trace.json"
PROGRESS_FILE = "progress"


@dataclass(frozen=True)
class Attempt:
    """One start of a training: its claim, and what it goes on from (None: from the beginning).

    `micro_batch` is what a worker whose memory ran out left word of; 0: none did.
    """

    claim: Claim
    found: Found | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)
    micro_batch: int = 0


class RunFolder:
    """The folder at `url`, in which the last `keep` checkpoints stay."""

    def __init__(self, url: str, keep: int = KEEP_LAST) -> None:
        self._folder = Folder(url)
        self.store = CheckpointStore(self._folder.inner("checkpoints"), keep)
        self.ledger = Ledger(self._folder.inner("events"))

    @property
    def local_path(self) -> Path | None:
        """The folder's path where it is one of a file system."""
        return Path(self._folder.path()) if self._folder.is_local else None

    def begin_attempt(self, worker: "Worker", owner: str) -> Attempt:
        """Claim the training for `owner` and find the newest whole checkpoint; the first worker does, and tells all.

        It alone has the best weights of one that is sharded: nobody else reads what is not his.

        Raises SupersededError, in every worker, where another has claimed it since `owner` did.
        """
        # The claim, or why there is none; the checkpoint, with its state if it is small; the micro-batch.
        told: list[Any] = [None, None, 0]
        attempt = None
        if worker.rank == 0:
            try:
                claim = self.store.begin_attempt(owner)
                found = self.store.newest()
                micro_batch = self._noted_micro_batch()
                attempt = Attempt(claim, found, self.store.passed_over, micro_batch)
                told = [claim, found and Found(found.checkpoint, _small(found)), micro_batch]
            except SupersededError as error:
                told[0] = error
        if worker.world_size > 1:
            import torch

            torch.distributed.broadcast_object_list(told, src=0)
        claim, found, micro_batch = told
        if isinstance(claim, SupersededError):
            raise claim
        if attempt is not None:
            return attempt
        if found is not None and not found.state:
            found = Found(*self.store.load(found.checkpoint.name))
        return Attempt(claim, found, micro_batch=micro_batch)

    def _noted_micro_batch(self) -> int:
        """Of those whose memory ran out before a checkpoint could tell of it; the smallest, since it ran out again."""
        return min((noted for event in self.ledger.events() if (noted := event.get("micro_batch"))), default=0)

    def start(self, attempt: Attempt) -> dict[str, Any] | Callable[["Training"], None] | None:
        """What `fit` goes on from: a state, or what restores a training from the parts that several processes wrote."""
        found = attempt.found
        if found is None or not found.checkpoint.is_sharded:
            return found.state if found else None
        from training.parallel.sharded_state import load_sharded  # torch's part of it takes seconds

        return partial(load_sharded, numbers=found.state, folder=self.store.folder_of(found.checkpoint))

    def remember_run(self, run_id: str) -> None:
        self._folder.write(RUN_FILE, run_id.encode())

    def run_id(self) -> str | None:
        """The MLflow run of an interrupted training."""
        with contextlib.suppress(FileNotFoundError):
            return self._folder.read(RUN_FILE).decode()
        return None

    def ask_to_stop(self, owner: str) -> None:
        """Ask the workers of `owner`, those under way and those to come."""
        self._folder.write(f"{STOPS}/{owner}", b"")

    def is_asked_to_stop(self, owner: str) -> bool:
        with contextlib.suppress(OSError):  # a storage that does not answer now is asked again
            return owner in self._folder.names(STOPS)
        return False

    def report(self, progress: Progress) -> None:
        """Leave word of how far the training is, where the folder is one of a file system."""
        if path := self._progress_path:
            scratch = path.with_suffix(f".{os.getpid()}.part")
            scratch.write_text(json.dumps(asdict(progress)))  # not forced to the disk: the next one is soon to come
            scratch.replace(path)

    def progress(self) -> Progress | None:
        """What was reported last; None where nothing was, or it cannot be read now."""
        with contextlib.suppress(OSError):
            return Progress(**json.loads(path.read_text())) if (path := self._progress_path) else None
        return None

    @property
    def _progress_path(self) -> Path | None:
        return self.local_path / PROGRESS_FILE if self.local_path else None

    def recoveries(self) -> tuple[Recovery, ...]:
        return tuple(recoveries(self.ledger.events()))

    def breakdown(self) -> Breakdown | None:
        """Where the time of the attempt that came to its end went."""
        finished = [event for event in self.ledger.events() if event["kind"] in ("finished", "paused")]
        return Breakdown(finished[-1]["seconds"]) if finished else None

    def files(self) -> list[Path]:
        """What was written down of the training, where the folder is one of a file system."""
        local = self.local_path
        return [path for name in (LOG_FILE, TRACE_FILE) if local and (path := local / name).exists()]

    def clear(self) -> None:
        """Remove all of it, once the training has ended well."""
        self._folder.remove()


def _small(found: Found) -> dict[str, Any]:
    """What is not as large as the model; nothing where the checkpoint's one file holds it all."""
    return {**found.state, "best": {**found.state["best"], "weights": {}}} if found.checkpoint.is_sharded else {}
