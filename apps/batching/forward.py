"""Forward: one call of a model for the rows of several requests, of which none may spoil the others.

Shape suffixes: B rows, C classes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apps.batching.collate import Collator
from training.encoding import Array

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """`logits` [B, C] of the whole batch, or where it failed what became of each of its `parts` alone.

    `batch_s` is what putting the parts side by side took, `model_s` the model.
    """

    logits: Logits | None
    parts: Sequence[Logits | Exception] = ()
    padded_rows: int = 0
    batch_s: float = 0.0
    model_s: float = 0.0


class Forward:
    """Runs `run` (rows [B, ...] -> logits [B, C]), at most `max_rows` at once."""

    def __init__(self, run: Callable[[Array], Logits], max_rows: int, collator: Collator) -> None:
        self._run = run
        self._max_rows = max_rows
        self._collate = collator

    def __call__(self, parts: Sequence[Array]) -> Outcome:
        started = time.perf_counter()
        try:
            batch_B = self._collate(parts)
            collated = time.perf_counter()
            logits_BC = self._logits(batch_B)
            if batch_B is not parts[0] and np.may_share_memory(logits_BC, batch_B):
                logits_BC = logits_BC.copy()  # the next batch is written over this one
        except Exception as error:
            if len(parts) == 1:
                return Outcome(None, [error])
            # Only the request that cannot be run may fail: the others are run again without it.
            return Outcome(None, [self._alone(part) for part in parts])
        return Outcome(logits_BC, (), len(batch_B), collated - started, time.perf_counter() - collated)

    def _alone(self, part: Array) -> Logits | Exception:
        outcome = self([part])
        return outcome.parts[0] if outcome.logits is None else outcome.logits[: len(part)]

    def _logits(self, batch_B: Array) -> Logits:
        size = self._max_rows
        if len(batch_B) <= size:
            logits_BC = self._run(batch_B)
        else:
            logits_BC = np.concatenate([self._run(batch_B[at : at + size]) for at in range(0, len(batch_B), size)])
        if logits_BC.ndim != 2 or len(logits_BC) != len(batch_B):
            raise ValueError(f"the model gave logits {list(logits_BC.shape)} for {len(batch_B)} rows")
        return logits_BC
