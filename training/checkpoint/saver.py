"""AsyncSaver: writes training states by a thread, from a copy taken between two steps."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from torch import Tensor, distributed

from training.checkpoint.store import CheckpointError, CheckpointStore, Claim, SupersededError

logger = logging.getLogger(__name__)

# A place that is full or away for a moment costs a checkpoint; one that stays so must end the training.
FAILURES_BORNE = 2
# Parts of a state that nobody changes once they are made: they need no copy.
FROZEN = ("best", "records")


class AsyncSaver:
    """One write at a time; a state that comes while one is under way waits for it. `with` it: that is left when the
    last write is over.
    """

    def __init__(self, store: CheckpointStore, claim: Claim, world_size: int) -> None:
        self._store, self._claim, self._world_size = store, claim, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Any] | None = None
        self._failures = 0
        self._overtaken: SupersededError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True)

    @property
    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    @property
    def overtaken(self) -> bool:
        """Whether the training is another's by now, as far as the last write found. `finish` raises it."""
        return self._overtaken is not None

    def save(
        self, state: Mapping[str, Any], epoch: int, step: int, group: distributed.ProcessGroup | None = None
    ) -> None:
        """Copy `state` and begin to write it, unless the training is another's.

        With a `group` each of its processes saves at this step, its `Training.own_state()`; all write together, and
        what comes of it is the same for all.

        Raises CheckpointError where more than FAILURES_BORNE writes failed in a row.
        """
        self.settle()
        if self.overtaken:
            return
        copy = {name: part if name in FROZEN else copy_to_cpu(part) for name, part in state.items()}
        self._writing = self._thread.submit(self._write, copy, epoch, step, group)

    def _write(self, state: Mapping[str, Any], epoch: int, step: int, group: distributed.ProcessGroup | None) -> None:
        if group is None:
            self._store.save(state, epoch, step, self._claim, self._world_size)
            return
        from training.checkpoint.shard_files import save_shards  # torch's part of it takes seconds

        save_shards(self._store, state, epoch, step, self._claim, self._world_size, group)

    def settle(self, failures_borne: int = FAILURES_BORNE) -> None:
        """Wait for the write under way; raises as `save` does."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
            self._failures = 0
        except SupersededError as error:
            self._overtaken = error
        except OSError as error:
            self._failures += 1
            if self._failures > failures_borne:
                raise CheckpointError(
                    f"the training cannot be kept in {self._store.url}: {error}. What was kept before is whole: make "
                    "room, or mend the way to it, and run the same command; it goes on"
                ) from error
            logger.warning("a checkpoint could not be written (%s); training goes on", error)

    def finish(self) -> None:
        """Wait for the last write, without which nothing is finished.

        Raises CheckpointError where it failed, and SupersededError where the training is another's.
        """
        self.settle(failures_borne=0)
        if self._overtaken:
            raise self._overtaken


def copy_to_cpu(value: Any) -> Any:
    """`value` with a copy of each tensor, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copy_to_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(inner) for inner in value)
    return value
