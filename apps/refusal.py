"""Refused: why a model did not answer, as a value for the wire and as an exception inside a process."""

from dataclasses import dataclass
from typing import Literal

# "overload": it would come too late or the queue is full; "timeout": it did not come in time;
# "unavailable": nothing is there to answer, or it failed.
RefusalReason = Literal["overload", "timeout", "unavailable"]


@dataclass(frozen=True)
class Refused:
    """`queue_rows` wait at the refusing model, at this `replica` of it; by `wait_s` the answer would be too late."""

    reason: RefusalReason
    detail: str
    queue_rows: int = 0
    wait_s: float = 0.0
    replica: str = ""


class RefusedError(Exception):
    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.refused = refused
