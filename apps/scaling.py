"""How many replicas a deployment needs to keep its latency objective, and the Serve policy that asks.

Ray Serve sends this module to its controller by value, so it imports nothing but the standard library.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext


@dataclass(frozen=True)
class Objective:
    """What a replica has to keep.

    `p95_ms` bounds the time from a row's arrival at the replica to its logits, `load` the share of the rows a second
    that it could answer in full batches, `loop_busy` the share of its event loop's time, `refused` the share of rows
    that it may turn away before another replica is asked for whatever the prediction says.
    """

    p95_ms: float = 30.0
    load: float = 0.8
    loop_busy: float = 0.7
    refused: float = 0.05

    def __post_init__(self) -> None:
        for name in ("load", "loop_busy"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a share, above 0 and at most 1")
        if not 0 <= self.refused < 1:
            raise ValueError(f"refused is {self.refused}: it is a share, at least 0 and below 1")
        if not 0 < self.p95_ms < math.inf:
            raise ValueError(f"p95_ms is {self.p95_ms}: it must be above 0 and finite")

    def tightened(self, slack: float) -> "Objective":
        """Every bound but that on refusals times `slack`."""
        return replace(self, p95_ms=self.p95_ms * slack, load=self.load * slack, loop_busy=self.loop_busy * slack)


@dataclass(frozen=True)
class Steps:
    """How a decision may move: at most so many replicas at once, and none within `cooldown_s` of the last move.

    Fewer replicas must keep the objective times `slack`: what was taken away would otherwise be wanted back.
    """

    up: int = 2
    down: int = 1
    slack: float = 0.75
    cooldown_s: float = 15.0

    def __post_init__(self) -> None:
        if self.up < 1 or self.down < 1:
            raise ValueError(f"steps are {self.up} up and {self.down} down: each must be at least 1")
        if not 0 < self.slack <= 1:
            raise ValueError(f"slack is {self.slack}: it must be above 0 and at most 1")
        if not 0 <= self.cooldown_s < math.inf:
            raise ValueError(f"cooldown_s is {self.cooldown_s}: it must be 0 or more, and finite")


@dataclass(frozen=True)
class Costs:
    """A call of b rows takes `call_ms` + b * `row_ms`, and has at most `max_rows`."""

    call_ms: float
    row_ms: float
    max_rows: int

    def batch_ms(self, rows: float) -> float:
        return self.call_ms + rows * self.row_ms

    @property
    def rows_per_s(self) -> float:
        """What one replica can answer, in full batches."""
        full_ms = self.batch_ms(self.max_rows)
        return self.max_rows / full_ms * 1e3 if full_ms > 0 else math.inf

    def p95_ms(self, rows_per_s: float) -> float:
        """Predicted time of a row in a replica that gets `rows_per_s`, whose next batch forms when the last one ends.

        In balance a batch holds what arrived while the one before it ran: b = r (call + b row), so it takes
        call / (1 - r row). A row waits for at most such a batch, as surely as the model is busy, and then runs in one.
        """
        per_ms = rows_per_s / 1e3
        if rows_per_s >= self.rows_per_s:
            return math.inf
        balanced = per_ms * self.call_ms / (1 - per_ms * self.row_ms)
        batch_ms = self.batch_ms(max(1.0, balanced))
        busy = min(1.0, per_ms * self.batch_ms(1.0))
        return (1 + busy) * batch_ms


@dataclass(frozen=True)
class Demand:
    """What a deployment's replicas said of the recent past, all of them together.

    `costs` is None where they have no model of their own, or have not told yet; `arrived_per_s` is None where they do
    not count. `loop_busy` is the sum of their event loops' shares. `ongoing` is Ray's count of requests that run or
    wait, which is all that is known without reports.
    """

    reporting: int
    arrived_per_s: float | None = None
    refused_per_s: float = 0.0
    costs: Costs | None = None
    loop_busy: float = 0.0
    ongoing: float = 0.0


@dataclass(frozen=True)
class Replicas:
    """How many run, how many were asked for, the bounds, and the seconds since the last move (None: never moved)."""

    running: int
    target: int
    lowest: int
    highest: int
    since_move_s: float | None = None


def needed(demand: Demand, objective: Objective, highest: int) -> int:
    """The fewest replicas, up to `highest`, that are predicted to keep the objective; 0 where no row arrives.

    Where not even an idle replica would keep `p95_ms`, more of them cannot help: only the load counts then.
    """
    if demand.arrived_per_s is not None and demand.arrived_per_s <= 0:
        return 0
    # The little that is taken off: a sum of shares may end a hair above the number that it stands for.
    by_loop = max(1, math.ceil(demand.loop_busy / objective.loop_busy - 1e-9))
    costs = demand.costs
    if costs is None or demand.arrived_per_s is None:
        return min(by_loop, highest)
    attainable = costs.p95_ms(0.0) <= objective.p95_ms
    for count in range(by_loop, highest):
        each_per_s = demand.arrived_per_s / count
        in_time = not attainable or costs.p95_ms(each_per_s) <= objective.p95_ms
        if in_time and each_per_s <= objective.load * costs.rows_per_s:
            return count
    return highest


def decide(demand: Demand, replicas: Replicas, objective: Objective, steps: Steps, target_ongoing: float) -> int:
    """How many replicas to ask for: within the bounds, in steps, and the same again within the cooldown."""
    resting = replicas.since_move_s is not None and replicas.since_move_s < steps.cooldown_s
    if replicas.running == 0 or resting:
        return _bounded(replicas.target, replicas)
    if demand.reporting == 0:
        # Replicas that say nothing of themselves, or not yet: what waits is all that is known.
        wanted = math.ceil(demand.ongoing / target_ongoing)
        near = max(replicas.target - steps.down, min(wanted, replicas.target + steps.up))
        return _bounded(near, replicas)
    up = needed(demand, objective, replicas.highest)
    if demand.refused_per_s > objective.refused * (demand.arrived_per_s or 0.0):
        up = max(up, replicas.running + 1)
    if up > replicas.target:
        return _bounded(min(up, replicas.target + steps.up), replicas)
    down = needed(demand, objective.tightened(steps.slack), replicas.highest)
    if max(up, down) < replicas.target:
        return _bounded(max(up, down, replicas.target - steps.down), replicas)
    return _bounded(replicas.target, replicas)


def _bounded(count: int, replicas: Replicas) -> int:
    return max(replicas.lowest, min(replicas.highest, count))


def read_demand(metrics: Mapping[str, Mapping[Any, float]], ongoing: float) -> Demand:
    """`metrics` is name -> replica -> mean, as replicas record them (see apps/scaling_signals.py)."""
    busy = metrics.get("loop_busy", {})
    rows_ms = metrics.get("row_ms", {})
    costs = None
    if rows_ms:
        # The slowest of its costs each: a replica on a busy machine is the one that is late.
        costs = Costs(
            call_ms=max(metrics["call_ms"].values()),
            row_ms=max(rows_ms.values()),
            max_rows=max(1, round(min(metrics["max_rows"].values()))),
        )
    return Demand(
        reporting=len(busy),
        arrived_per_s=sum(metrics["arrived_per_s"].values()) if "arrived_per_s" in metrics else None,
        refused_per_s=sum(metrics.get("refused_per_s", {}).values()),
        costs=costs,
        loop_busy=sum(busy.values()),
        ongoing=ongoing,
    )


class SloPolicy:
    """An autoscaling policy for `autoscaling_config.policy` in serve_config.yaml; the keywords are `policy_kwargs`.

    Ray Serve applies its own delays and bounds to what it answers, and starts the first replica of a deployment that
    has none by itself. Raises ValueError for a keyword out of range.
    """

    def __init__(
        self,
        p95_ms: float = Objective.p95_ms,
        load: float = Objective.load,
        loop_busy: float = Objective.loop_busy,
        refused: float = Objective.refused,
        up: int = Steps.up,
        down: int = Steps.down,
        slack: float = Steps.slack,
        cooldown_s: float = Steps.cooldown_s,
    ) -> None:
        self._objective = Objective(p95_ms, load, loop_busy, refused)
        self._steps = Steps(up, down, slack, cooldown_s)

    def __call__(self, ctx: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        moves = [moved for moved in (ctx.last_scale_up_time, ctx.last_scale_down_time) if moved is not None]
        replicas = Replicas(
            running=ctx.current_num_replicas,
            target=ctx.target_num_replicas,
            lowest=ctx.capacity_adjusted_min_replicas,
            highest=ctx.capacity_adjusted_max_replicas,
            since_move_s=(ctx.current_time or 0.0) - max(moves) if moves else None,
        )
        assert ctx.config is not None
        demand = read_demand(ctx.aggregated_metrics or {}, ctx.total_num_requests)
        target_ongoing = float(ctx.config.get_target_ongoing_requests())
        return decide(demand, replicas, self._objective, self._steps, target_ongoing), {}
