"""Preflight: how many trials a cluster can hold at once, computed before a sweep starts. No Ray in here.

A trial of one worker trains in its own process: what it needs is placed or waits, all at once. A trial of several
has a driver, which Ray Tune places, and workers, which the driver asks for once it runs. Where drivers alone may fill
the cluster, each of them waits for ever for workers that no longer fit: such a plan is never let through.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

UNIT = 10_000  # Ray counts resources in ten-thousandths; whole numbers spare us what floats would round


@dataclass(frozen=True)
class Node:
    """What a machine of the cluster has to give."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Demand:
    """What each trial asks for. With one worker the driver is that worker, and `driver_cpus` is not read."""

    workers: int = 1
    cpus_a_worker: float = 1.0
    gpus_a_worker: float = 0.0
    driver_cpus: float = 1.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"{self.workers} workers a trial: there must be at least one")
        if self.cpus_a_worker <= 0 or self.driver_cpus < 0 or self.gpus_a_worker < 0:
            raise ValueError(
                f"{self.cpus_a_worker} CPUs and {self.gpus_a_worker} GPUs a worker, {self.driver_cpus} CPUs a driver: "
                "a worker needs more than 0 CPUs, and nothing can be negative"
            )
        if self.gpus_a_worker > 1 and not float(self.gpus_a_worker).is_integer():
            raise ValueError(f"{self.gpus_a_worker} GPUs a worker: above 1 only whole GPUs can be given")

    @property
    def has_driver(self) -> bool:
        return self.workers > 1


@dataclass(frozen=True)
class Plan:
    """`trials_at_once` never livelock; `note` is a sentence for the user where it is fewer than was wanted."""

    trials_at_once: int
    note: str = ""


def preflight(
    nodes: Sequence[Node], demand: Demand, trials: int, wanted: int | None = None, whole_population: bool = False
) -> Plan:
    """How many of `trials` may run at once on `nodes`; at most `wanted`.

    `whole_population`: all trials begin together, as population based training needs it. Raises ValueError where no
    trial could ever train, or where drivers could keep each other from it, and says what would fit.
    """
    if trials < 1 or (wanted is not None and wanted < 1):
        raise ValueError(f"{trials} trials, {wanted} at once: there must be at least one of each")
    fitting = _trials_that_fit(nodes, demand, trials, whole_population)
    if not fitting:
        need = _say_need(nodes, demand, trials, whole_population)
        raise ValueError(f"{need}. {_say_remedies(nodes, demand, trials, whole_population)}")
    asked = min(trials, wanted or trials)
    if wanted is not None and fitting < asked:
        note = f"{asked} trials at once do not fit: {_say_nodes(nodes)}, so {fitting} will run at once."
        return Plan(fitting, note)
    return Plan(min(asked, fitting))


def _trials_that_fit(nodes: Sequence[Node], demand: Demand, trials: int, whole_population: bool) -> int:
    """The most trials that can train at the same time wherever their drivers land; 0 where they might never train."""
    if not demand.has_driver or not demand.driver_cpus:
        return min(trials, _worker_slots(nodes, demand) // demand.workers)
    left = _slots_left(nodes, demand, trials)
    if whole_population:
        # All drivers hold their CPUs from the beginning to the end, whoever trains.
        return min(trials, left[-1] // demand.workers)
    return max((count for count in range(1, trials + 1) if left[count] >= count * demand.workers), default=0)


def _worker_slots(nodes: Sequence[Node], demand: Demand) -> int:
    return sum(_slots_of(node, demand, drivers=0) for node in nodes)


def _slots_of(node: Node, demand: Demand, drivers: int) -> int:
    """Workers that fit on `node` beside so many drivers."""
    free = _units(node.cpus) - drivers * _units(demand.driver_cpus)
    by_cpu = free // _units(demand.cpus_a_worker)
    if not demand.gpus_a_worker:
        return by_cpu
    if demand.gpus_a_worker <= 1:
        # A share of a GPU lies on one GPU: two of 0.6 do not share two thirds of another.
        by_gpu = int(node.gpus) * (UNIT // _units(demand.gpus_a_worker))
    else:
        by_gpu = int(node.gpus) // int(demand.gpus_a_worker)
    return min(by_cpu, by_gpu)


def _slots_left(nodes: Sequence[Node], demand: Demand, most: int) -> list[int]:
    """Entry n: the workers that still fit however n drivers (or fewer, where no more fit) are spread over `nodes`."""
    fewest = [0] * (most + 1)
    for node in nodes:
        room = min(most, _units(node.cpus) // _units(demand.driver_cpus))
        here = [_slots_of(node, demand, drivers) for drivers in range(room + 1)]
        # Ray says nowhere on which node it will put a driver, so the least lucky spread counts.
        fewest = [
            min(fewest[count - drivers] + here[drivers] for drivers in range(min(count, room) + 1))
            for count in range(most + 1)
        ]
    return fewest


def _units(amount: float) -> int:
    return round(amount * UNIT)


def _say_need(nodes: Sequence[Node], demand: Demand, trials: int, whole_population: bool) -> str:
    workers = f"{demand.workers} workers of {_amount(demand)}"
    if not demand.has_driver:
        return f"each trial needs {_amount(demand)}, and {_say_nodes(nodes)}"
    alone = not _trials_that_fit(nodes, demand, 1, whole_population=False)
    cpus = demand.driver_cpus + demand.workers * demand.cpus_a_worker
    if whole_population and not alone:
        return (
            f"a population of {trials} holds {trials} drivers of {_count(demand.driver_cpus, 'CPU')} from beginning to "
            f"end, which leaves no trial its {workers}: {_say_nodes(nodes)}"
        )
    gpus = f" and {_count(demand.workers * demand.gpus_a_worker, 'GPU')}" if demand.gpus_a_worker else ""
    return (
        f"each trial needs {_count(cpus, 'CPU')}{gpus}: {demand.driver_cpus:g} for its driver and "
        f"{demand.workers * demand.cpus_a_worker:g} for its {workers}; {_say_nodes(nodes)}"
    )


def _say_nodes(nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    parts = _count(cpus, "CPU") + (f" and {_count(gpus, 'GPU')}" if gpus else "")
    spread = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    return f"the cluster has {parts} free{spread}"


def _say_remedies(nodes: Sequence[Node], demand: Demand, trials: int, whole_population: bool) -> str:
    fitting = [
        option
        for option, changed, count in _alternatives(demand, trials, whole_population)
        if _trials_that_fit(nodes, changed, count, whole_population)
    ]
    # Of several values of one option the first that fits is the one that changes least.
    names = list(dict.fromkeys(option.split()[0] for option in fitting))
    closest = [next(option for option in fitting if option.split()[0] == name) for name in names]
    if not closest:
        return "Nothing smaller fits either: end what else runs on the cluster, or add a node"
    return f"What would fit: {' or '.join(closest)}"


def _alternatives(demand: Demand, trials: int, whole_population: bool) -> Iterator[tuple[str, Demand, int]]:
    for workers in range(demand.workers - 1, 0, -1):
        yield f"--num-workers {workers}", replace(demand, workers=workers), trials
    for threads in range(int(demand.cpus_a_worker) - 1, 0, -1):
        yield f"--threads {threads}", replace(demand, cpus_a_worker=float(threads)), trials
    if demand.has_driver and demand.driver_cpus:
        yield "--driver-cpus 0", replace(demand, driver_cpus=0.0), trials
    if demand.gpus_a_worker:
        yield "--gpus 0", replace(demand, gpus_a_worker=0.0), trials
    if whole_population:
        for count in range(trials - 1, 1, -1):
            yield f"--trials {count}", demand, count


def _amount(demand: Demand) -> str:
    gpus = f" and {_count(demand.gpus_a_worker, 'GPU')}" if demand.gpus_a_worker else ""
    return _count(demand.cpus_a_worker, "CPU") + gpus


def _count(amount: float, noun: str) -> str:
    return f"{amount:g} {noun}{'' if amount == 1 else 's'}"
