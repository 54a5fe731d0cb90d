"""Ledger: what befell a training and what each recovery cost; one small file an event, beside the checkpoints."""

import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.checkpoint.folder import Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """One start of a training after the first.

    `cause` is what ended the attempt before it; `steps_redone` were trained already but not yet kept;
    `seconds_to_next_step` run from the last step before the fault to the first one after it. None: not known.
    """

    attempt: int
    at: float  # seconds since 1970
    cause: str
    world_size: int
    epoch: int
    step: int
    steps_redone: int | None
    seconds_to_next_step: float | None
    rejected: Mapping[str, str]  # checkpoints that were passed over, each with the reason


class Ledger:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._unwritten: list[tuple[str, bytes]] = []

    def add(self, kind: str, attempt: int, **facts: Any) -> None:
        """Note an event. One that cannot be written now is so with the next, or by `flush`: no training ends of it."""
        now_ns = time.time_ns()
        event = {"kind": kind, "attempt": attempt, "time": now_ns / 1e9, **facts}
        self._unwritten.append((f"{now_ns:020}-{kind}.json", json.dumps(event).encode()))
        self.flush()

    def flush(self) -> None:
        try:
            while self._unwritten:
                self._folder.write(*self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            logger.warning("the ledger in %s cannot be written (%s); it is tried again", self._folder.url, error)

    def events(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return [json.loads(self._folder.read(name)) for name in self._folder.names() if name.endswith(".json")]


def recoveries(events: Sequence[Mapping[str, Any]]) -> list[Recovery]:
    """What the events say of each start but the first, and but those after an attempt that came as far as it was to."""
    made: list[Recovery] = []
    starts = [event for event in events if event["kind"] == "started"]
    for before, start in itertools.pairwise(starts):
        between = [event for event in events if event["attempt"] == before["attempt"] and event["kind"] != "started"]
        if any(event["kind"] in ("finished", "paused") for event in between):
            continue
        ended = [event for event in between if event["kind"] in ("stopped", "failed")]
        first = [e for e in events if e["attempt"] == start["attempt"] and e["kind"] == "first_step"]
        made.append(
            Recovery(
                attempt=start["attempt"],
                at=start["time"],
                cause=ended[-1]["cause"] if ended else _silent_cause(before, start),
                world_size=start["world_size"],
                epoch=start["epoch"],
                step=start["step"],
                steps_redone=start["steps_redone"],
                seconds_to_next_step=first[0]["seconds_since_last_step"] if first else None,
                rejected=start["rejected"],
            )
        )
    return made


def _silent_cause(before: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    """Why an attempt ended of whose end nothing was noted."""
    if before["owner"] == start["owner"] and before["world_size"] != start["world_size"]:
        # Its command lives, and says so of every fault: it ended them itself, since it may have other numbers of them.
        return f"resized: {start['world_size']} workers in place of {before['world_size']}"
    return "killed: it ended without a word"
