"""AsyncSaver: writes training states by a thread, from a copy taken between two steps."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from training.checkpoint.store import CheckpointStore, SupersededError

logger = logging.getLogger(__name__)

# A place that is full or away for a moment costs a checkpoint; one that stays so must end the training.
MAX_FAILURES = 3
# Parts of a state that nobody changes once they are made: they need no copy.
FROZEN = ("best", "records")


class AsyncSaver:
    """One write at a time; a state that comes while one is under way waits for it."""

    def __init__(self, store: CheckpointStore, attempt: int, world_size: int) -> None:
        self._store, self._attempt, self._world_size = store, attempt, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Any] | None = None
        self._failures = 0

    @property
    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def save(self, state: Mapping[str, Any], epoch: int, step: int) -> None:
        """Copy `state` and begin to write it. Raises what made the last writes fail, from the third in a row on."""
        self.settle()
        copy = {name: part if name in FROZEN else copy_to_cpu(part) for name, part in state.items()}
        self._writing = self._thread.submit(
            self._store.save, copy, epoch, step, self._attempt, self._world_size
        )  # fmt: skip

    def settle(self) -> None:
        """Wait for the write under way."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except SupersededError:
            raise
        except OSError as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise
            logger.warning("a checkpoint could not be written (%s); training goes on", error)
            return
        self._failures = 0

    def close(self) -> None:
        self._thread.shutdown(wait=True)


def copy_to_cpu(value: Any) -> Any:
    """`value` with a copy of each tensor, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copy_to_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(inner) for inner in value)
    return value
