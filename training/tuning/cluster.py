"""What the cluster that a sweep runs on has to give, node by node, and what of it a plan may count on."""

import contextlib
import os
import time

from training.tuning.preflight import Demand, Node, Plan, preflight

SETTLE_S = 5.0  # for processes of a sweep that was killed a moment ago to end, and let go of what they hold


def join() -> None:
    """The cluster at RAY_ADDRESS, or one started for this sweep. What trials print stays in Ray's own logs."""
    os.environ.setdefault("RAY_LOG_TO_DRIVER", "0")
    from training.cluster import connect

    connect()


def plan_trials(demand: Demand, trials: int, wanted: int | None, whole_population: bool) -> Plan:
    """`preflight` on what the joined cluster has free: replicas and other work keep what they hold."""
    # Ray's public functions give sums over the cluster, which say nothing of where a worker fits.
    from ray._private import state

    deadline = time.monotonic() + SETTLE_S
    possible = preflight(_nodes(state.total_resources_per_node()), demand, trials, wanted, whole_population)  # type: ignore[no-untyped-call]
    while True:
        free = _nodes(state.available_resources_per_node())  # type: ignore[no-untyped-call]
        with contextlib.suppress(ValueError):
            plan = preflight(free, demand, trials, wanted, whole_population)
            if plan.trials_at_once == possible.trials_at_once:
                return plan
        if time.monotonic() > deadline:
            return preflight(free, demand, trials, wanted, whole_population)
        time.sleep(0.5)


def _nodes(resources: dict[str, dict[str, float]]) -> list[Node]:
    held = [resources[name] for name in sorted(resources)]
    return [Node(float(node.get("CPU", 0.0)), float(node.get("GPU", 0.0))) for node in held]
