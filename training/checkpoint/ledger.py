"""Ledger: what befell a training and what each recovery cost; one small file an event, beside the checkpoints."""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.checkpoint.folder import Folder


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
    rejected: Mapping[str, str]


class Ledger:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def add(self, kind: str, attempt: int, **facts: Any) -> None:
        now_ns = time.time_ns()
        event = {"kind": kind, "attempt": attempt, "time": now_ns / 1e9, **facts}
        self._folder.write(f"{now_ns:020}-{kind}.json", json.dumps(event).encode())

    def events(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return [json.loads(self._folder.read(name)) for name in self._folder.names() if name.endswith(".json")]


def recoveries(events: Sequence[Mapping[str, Any]]) -> list[Recovery]:
    """What the events say of each start but the first, and but those after a pause."""
    made: list[Recovery] = []
    starts = [event for event in events if event["kind"] == "started"]
    for before, start in itertools.pairwise(starts):
        between = [event for event in events if event["attempt"] == before["attempt"] and event["kind"] != "started"]
        if any(event["kind"] == "paused" for event in between):
            continue  # it came as far as it was told
        ended = [event for event in between if event["kind"] in ("stopped", "failed")]
        first = [e for e in events if e["attempt"] == start["attempt"] and e["kind"] == "first_step"]
        made.append(
            Recovery(
                attempt=start["attempt"],
                at=start["time"],
                cause=ended[-1]["cause"] if ended else "killed: it ended without a word",
                world_size=start["world_size"],
                epoch=start["epoch"],
                step=start["step"],
                steps_redone=start["steps_redone"],
                seconds_to_next_step=first[0]["seconds_since_last_step"] if first else None,
                rejected=start["rejected"],
            )
        )
    return made
