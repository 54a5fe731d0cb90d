"""CheckpointStore: training states in a Folder, each whole or passed over.

A checkpoint is a folder of files with a manifest, written last, that holds their sha256: one without it was never
finished, one that differs from it is torn or altered. One file holds the whole state; or, where a model is cut among
processes, all of it but the tensors, beside the parts that each process wrote (`shard_files.py`).
"""

import hashlib
import io
import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from training.checkpoint.folder import Folder

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"
MANIFEST_FILE = "manifest.json"
CLAIMS = "attempts"
KEEP_LAST = 2


class CheckpointError(ValueError):
    """A checkpoint that is torn, altered or absent."""


class UnfinishedError(CheckpointError):
    """A checkpoint without a manifest: who wrote it was killed meanwhile."""


class SupersededError(ValueError):
    """The same training was started again elsewhere; this one may write no more."""


@dataclass(frozen=True)
class Claim:
    """One start of a training, the `number`-th. Only who made the newest claim may write.

    `owner` stands for the command that it comes of: what starts its workers again goes on claiming as the same owner.
    """

    number: int  # counted from 1
    owner: str


@dataclass(frozen=True)
class Checkpoint:
    """`epoch` (counted from 1) and `step` (from 0) are the next to be trained; `attempt` is the number of the claim."""

    epoch: int
    step: int
    attempt: int
    world_size: int
    written_at: float  # seconds since 1970
    files: Mapping[str, str]  # name -> sha256

    @property
    def is_sharded(self) -> bool:
        """Whether several processes wrote it, each its part."""
        return len(self.files) > 1

    @property
    def name(self) -> str:
        return f"epoch-{self.epoch:05}-step-{self.step:07}-attempt-{self.attempt:03}"


@dataclass(frozen=True)
class Found:
    """`state` lacks the tensors of a checkpoint that `is_sharded`, but for the best weights."""

    checkpoint: Checkpoint
    state: dict[str, Any]


class CheckpointStore:
    """The last `keep` checkpoints of one training. The best weights are part of each."""

    def __init__(self, folder: Folder, keep: int = KEEP_LAST) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least the last checkpoint must be kept")
        self._folder, self._keep = folder, keep
        self._passed_over: dict[str, str] = {}

    @property
    def passed_over(self) -> Mapping[str, str]:
        """Those that `newest` found not to be whole, each with the reason."""
        return self._passed_over

    @property
    def url(self) -> str:
        return self._folder.url

    def begin_attempt(self, owner: str | None = None) -> Claim:
        """Claim the training for `owner`, which stands for one command and all starts that come of it.

        Raises SupersededError where another has claimed it since `owner` did.
        """
        owner = owner or uuid.uuid4().hex
        while True:
            claims = self._claims()
            if claims and claims[-1].owner != owner and any(claim.owner == owner for claim in claims):
                raise self._superseded([claim for claim in claims if claim.owner == owner][-1])
            claim = Claim(claims[-1].number + 1 if claims else 1, owner)
            try:
                self._folder.create(f"{CLAIMS}/{claim.number:06}", owner.encode())
            except FileExistsError:
                continue  # another start took the number meanwhile
            return claim

    def last_claim(self) -> Claim | None:
        """Whose the training is; None before the first start, and where it has ended."""
        numbers = self._numbers()
        return self._claim(numbers[-1]) if numbers else None

    def require(self, claim: Claim) -> None:
        """Raises SupersededError where the training is no longer that of `claim`."""
        if self.last_claim() != claim:
            raise self._superseded(claim)

    def folder_of(self, checkpoint: Checkpoint) -> Folder:
        """Where its files lie."""
        return self._folder.inner(checkpoint.name)

    def save(
        self,
        state: Mapping[str, Any],
        epoch: int,
        step: int,
        claim: Claim,
        world_size: int,
        shards: Mapping[str, str] = MappingProxyType({}),
    ) -> Checkpoint:
        """Write `state` (tensors, numbers, strings, lists and dicts of them), then drop what is no longer kept.

        `shards` are the files that lie in its folder already, name -> sha256.

        Raises SupersededError where the training is no longer that of `claim`, and OSError where the place is full or
        away; what was kept before stays whole.
        """
        import torch

        made = Checkpoint(epoch, step, claim.number, world_size, time.time(), {})
        try:
            self.require(claim)
            sha256 = self._folder.write_by(f"{made.name}/{STATE_FILE}", lambda stream: torch.save(dict(state), stream))
            self.require(claim)
        except SupersededError:
            self._folder.remove(made.name)
            raise
        made = replace(made, files={**shards, STATE_FILE: sha256})
        self._folder.write(f"{made.name}/{MANIFEST_FILE}", json.dumps(asdict(made)).encode())
        self._passed_over.pop(made.name, None)
        self._drop_all_but_the_last(made.name)
        return made

    def _drop_all_but_the_last(self, newest: str) -> None:
        """The last `keep` up to `newest` stay. What is no whole checkpoint is none of them, wherever it stands: what
        lies beyond `newest` was passed over, or this training would have gone on from there.
        """
        try:
            names = self._names()
            whole = [name for name in names if name not in self._passed_over and self._is_finished(name)]
            kept = [name for name in whole if name <= newest][-self._keep :]
            dropped = [name for name in names if name not in kept]
        except OSError as error:
            logger.warning("what is no longer kept could not be listed (%s)", error)
            return
        for name in dropped:
            try:
                # The manifest first: what remains if the rest is interrupted is no checkpoint.
                self._folder.remove(f"{name}/{MANIFEST_FILE}")
                self._folder.remove(name)
            except OSError as error:  # the next save tries again
                logger.warning("%s could not be removed (%s)", name, error)

    def newest(self) -> Found | None:
        """The newest checkpoint that is whole; None where none was ever finished.

        Raises CheckpointError where there are some, and none is whole.
        """
        self._passed_over = {}
        was_kept = False
        for name in reversed(self._names()):
            try:
                return Found(*self.load(name))
            except CheckpointError as error:
                self._passed_over[name] = str(error)
                was_kept = was_kept or not isinstance(error, UnfinishedError)
        if was_kept:
            reasons = "; ".join(self._passed_over.values())
            raise CheckpointError(
                f"no checkpoint in {self.url} is whole: {reasons}. Without the folder the training begins anew"
            )
        return None

    def load(self, name: str) -> tuple[Checkpoint, dict[str, Any]]:
        """A checkpoint by its name, with the state as in Found; runs no code from its files.

        Raises CheckpointError where it is not whole.
        """
        import pickle

        import torch

        try:
            manifest = self._folder.read(f"{name}/{MANIFEST_FILE}")
        except FileNotFoundError as error:
            raise UnfinishedError(f"{name} was never finished: {error}") from error
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read: {error}") from error
        try:
            checkpoint = Checkpoint(**json.loads(manifest))
            content = self._folder.read(f"{name}/{STATE_FILE}")
            hashes = {STATE_FILE: hashlib.sha256(content).hexdigest()}
            hashes |= {file: self._folder.sha256(f"{name}/{file}") for file in checkpoint.files if file not in hashes}
            for file, found in hashes.items():
                was = checkpoint.files[file]
                if found != was:
                    raise CheckpointError(f"{name}/{file} has sha256 {found[:12]}..., it was written as {was[:12]}...")
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read: {error}") from error
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{name} is no checkpoint: {error}") from error
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{name}/{STATE_FILE} holds no training state: {error}") from error
        return checkpoint, state

    def _is_finished(self, name: str) -> bool:
        return MANIFEST_FILE in self._folder.names(name)

    def _names(self) -> Sequence[str]:
        """Oldest first, whole or not."""
        return [name for name in self._folder.names() if name.startswith("epoch-")]

    def _claims(self) -> list[Claim]:
        """Oldest first."""
        return [self._claim(number) for number in self._numbers()]

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self._folder.names(CLAIMS) if name.isdecimal())

    def _claim(self, number: int) -> Claim:
        try:
            return Claim(number, self._folder.read(f"{CLAIMS}/{number:06}").decode())
        except FileNotFoundError:
            return Claim(number, "")  # the training has ended meanwhile

    def _superseded(self, claim: Claim) -> SupersededError:
        last = self.last_claim()
        what = f"attempt {claim.number} of the training in {self.url}"
        if last is None:
            return SupersededError(f"{what} is of no use any more: the training has ended elsewhere; this one ends")
        return SupersededError(
            f"{what} was overtaken by attempt {last.number}: the same command runs elsewhere; this one ends"
        )
