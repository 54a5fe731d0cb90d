"""What goes to a model's deployment and comes back: values for the wire, small and without behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass

from apps.batching.forward import Logits
from apps.refusal import Refused
from training.encoding import Array


@dataclass(frozen=True)
class Call:
    """Rows [B, ...], for how long their logits are of use, and the `traceparent` of a request that is traced.

    `turned_away` requests were refused without asking since the last call: the model is wanted that much more.
    """

    rows: Array
    timeout_s: float | None
    trace: str | None = None
    turned_away: int = 0


@dataclass(frozen=True)
class Reply:
    """Logits [B, C] and the rows that wait behind them.

    `spent_s` is how long it took over there: the rest was the way. `next_s` is what one more row would take at this
    `replica`, and each after it takes `step_s` longer.
    """

    logits: Logits
    queue_rows: int
    spent_s: float = 0.0
    next_s: float = 0.0
    step_s: float = 0.0
    replica: str = ""


# A refusal is a value, since exceptions are dear on their way through Ray.
Answered = Reply | Refused
# The places of calls in their micro-batch with what became of them: those that are ready together come together.
Ready = Sequence[tuple[int, Answered]]
