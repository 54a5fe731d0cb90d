"""Model: the Serve deployment around a Batcher and a Runner. It knows arrays, no task."""

import asyncio
from dataclasses import dataclass

from ray import serve

from apps.batcher import Logits
from apps.load import ModelSource, open_batcher
from apps.refusal import Refused, RefusedError
from training.encoding import Array

# A call that runs for so long will not come back: the replica is better replaced.
STUCK_S = 30.0


@dataclass(frozen=True)
class Call:
    """Rows [B, ...], and for how long their logits are of use."""

    rows: Array
    timeout_s: float | None


@dataclass(frozen=True)
class Reply:
    """Logits [B, C] and the rows that wait behind them."""

    logits: Logits
    queue_rows: int


class Model:
    """Loads its Version and warms up before it is ready."""

    def __init__(self, source: ModelSource) -> None:
        self._batcher = open_batcher(source.fetch(), source)

    async def infer(self, rows_B: Array, timeout_s: float | None) -> Reply | Refused:
        """Raises what the Runner raised; a refusal is a value, since exceptions are dear on their way through Ray."""
        outcome = await self._hand_over(Call(rows_B, timeout_s))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    # Hands over what has arrived without waiting for more: the Batcher behind it decides what runs together, when its
    # thread frees. So many batches at once because each of them only waits there.
    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0, max_concurrent_batches=256)
    async def _hand_over(self, calls: list[Call], /) -> list[Reply | Refused | Exception]:
        return await asyncio.gather(*map(self._submit, calls))

    async def _submit(self, call: Call) -> Reply | Refused | Exception:
        try:
            logits_BC = await self._batcher.submit(call.rows, call.timeout_s)
        except RefusedError as error:
            return error.refused
        except Exception as error:  # it belongs to this call, not to those handed over with it
            return error
        return Reply(logits_BC, self._batcher.queue_rows)

    def check_health(self) -> None:
        if self._batcher.busy_s > STUCK_S:
            raise RuntimeError(f"a call has been running for {self._batcher.busy_s:.0f} s")

    def __del__(self) -> None:
        batcher = getattr(self, "_batcher", None)
        if batcher is not None:
            batcher.close()
