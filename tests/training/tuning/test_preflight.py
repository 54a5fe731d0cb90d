import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from training.tuning.preflight import Demand, Node, Plan, preflight

TWO_CORES = [Node(2.0)]


class Cluster:
    """Places drivers and whole groups of workers as Ray does: a driver anywhere it fits, a group all at once."""

    def __init__(self, nodes: Sequence[Node], demand: Demand) -> None:
        self.demand = demand
        self.cpus = [round(node.cpus * 10_000) for node in nodes]
        # A share of a GPU lies on one device.
        self.gpus = [[10_000] * int(node.gpus) for node in nodes]

    def place_driver(self, node: int) -> bool:
        need = round((self.demand.driver_cpus if self.demand.has_driver else 0.0) * 10_000)
        if self.cpus[node] < need:
            return False
        self.cpus[node] -= need
        return True

    def place_workers(self) -> bool:
        """One worker after the other, on the first node with room; none stays where not all fit."""
        before = list(self.cpus), [list(devices) for devices in self.gpus]
        for _ in range(self.demand.workers):
            if not any(self._place_worker(node) for node in range(len(self.cpus))):
                self.cpus, self.gpus = before
                return False
        return True

    def _place_worker(self, node: int) -> bool:
        cpu, gpu = round(self.demand.cpus_a_worker * 10_000), round(self.demand.gpus_a_worker * 10_000)
        if self.cpus[node] < cpu:
            return False
        devices = self.gpus[node]
        if gpu > 10_000:
            free = [i for i, left in enumerate(devices) if left == 10_000][: gpu // 10_000]
            if len(free) < gpu // 10_000:
                return False
            for i in free:
                devices[i] = 0
        elif gpu:
            fitting = [i for i, left in enumerate(devices) if left >= gpu]
            if not fitting:
                return False
            devices[fitting[0]] -= gpu
        self.cpus[node] -= cpu
        return True


def driver_spreads(nodes: int, drivers: int) -> Iterator[tuple[int, ...]]:
    """Every way to put so many drivers on the nodes, as a node for each."""
    return itertools.combinations_with_replacement(range(nodes), drivers)


CLUSTERS = st.lists(st.builds(Node, st.integers(0, 6).map(float), st.integers(0, 3).map(float)), min_size=1, max_size=3)
DEMANDS = st.builds(
    Demand,
    workers=st.integers(1, 4),
    cpus_a_worker=st.sampled_from([0.3, 0.5, 1.0, 2.0]),
    gpus_a_worker=st.sampled_from([0.0, 0.4, 0.5, 1.0, 2.0]),
    driver_cpus=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


def plan_of(*arguments: Any) -> Plan | None:
    try:
        return preflight(*arguments)
    except ValueError:
        return None


@settings(max_examples=100, deadline=None)
@given(nodes=CLUSTERS, demand=DEMANDS, trials=st.integers(1, 5), whole=st.booleans())
def test_an_accepted_plan_never_livelocks(nodes: list[Node], demand: Demand, trials: int, whole: bool) -> None:
    """However the drivers that may run are spread, some trial's workers fit beside them, so one ends and frees all."""
    plan = plan_of(nodes, demand, trials, None, whole)
    assume(plan is not None)
    assert plan is not None
    drivers = trials if whole and demand.has_driver else plan.trials_at_once
    for count in range(1, drivers + 1):
        for spread in driver_spreads(len(nodes), count):
            cluster = Cluster(nodes, demand)
            if all(cluster.place_driver(node) for node in spread):
                assert cluster.place_workers(), f"{count} drivers on nodes {spread} leave no room"


@settings(max_examples=100, deadline=None)
@given(nodes=CLUSTERS, demand=DEMANDS, trials=st.integers(1, 5))
def test_all_trials_of_an_accepted_plan_train_at_once(nodes: list[Node], demand: Demand, trials: int) -> None:
    plan = plan_of(nodes, demand, trials)
    assume(plan is not None)
    assert plan is not None
    for spread in driver_spreads(len(nodes), plan.trials_at_once):
        cluster = Cluster(nodes, demand)
        if all(cluster.place_driver(node) for node in spread):
            assert all(cluster.place_workers() for _ in range(plan.trials_at_once))


@settings(max_examples=100, deadline=None)
@given(nodes=CLUSTERS, demand=DEMANDS)
def test_what_is_refused_could_wait_for_ever(nodes: list[Node], demand: Demand) -> None:
    """A single trial is refused only where its driver finds no place, or may find one that leaves its workers none."""
    assume(plan_of(nodes, demand, 1) is None)
    stuck = []
    for node in range(len(nodes)):
        cluster = Cluster(nodes, demand)
        stuck.append(not (cluster.place_driver(node) and cluster.place_workers()))
    assert any(stuck)


@settings(max_examples=60, deadline=None)
@given(nodes=CLUSTERS, demand=DEMANDS, trials=st.integers(2, 5), whole=st.booleans())
def test_every_remedy_that_a_refusal_names_is_accepted(
    nodes: list[Node], demand: Demand, trials: int, whole: bool
) -> None:
    with pytest.raises(ValueError) as caught:
        preflight(nodes, demand, trials, None, whole)
        assume(False)
    said = str(caught.value)
    assume("What would fit: " in said)
    for remedy in said.partition("What would fit: ")[2].split(" or "):
        option, _, value = remedy.partition(" ")
        changed, count = demand, trials
        if option == "--trials":
            count = int(value)
        else:
            names = {"--num-workers": "workers", "--threads": "cpus_a_worker", "--gpus": "gpus_a_worker"}
            number = int(value) if option == "--num-workers" else float(value)
            changed = replace(demand, **{names.get(option, "driver_cpus"): number})
        assert preflight(nodes, changed, count, None, whole).trials_at_once >= 1


def test_trials_of_one_worker_fill_the_cluster() -> None:
    assert preflight([Node(2.0), Node(3.0)], Demand(), 12) == Plan(5)
    assert preflight([Node(2.0), Node(3.0)], Demand(cpus_a_worker=2.0), 12) == Plan(2)
    assert preflight(TWO_CORES, Demand(), 1) == Plan(1)


def test_drivers_leave_room_for_the_workers_of_all() -> None:
    """Six drivers would fit on six CPUs, and then no worker."""
    assert preflight([Node(6.0)], Demand(workers=2), 12) == Plan(2)
    assert preflight([Node(6.0)], Demand(workers=2, driver_cpus=0.0), 12) == Plan(3)


def test_an_impossible_plan_is_refused_with_what_would_fit() -> None:
    with pytest.raises(ValueError) as caught:
        preflight(TWO_CORES, Demand(workers=2), 12)
    assert str(caught.value) == (
        "each trial needs 3 CPUs: 1 for its driver and 2 for its 2 workers of 1 CPU; the cluster has 2 CPUs free. "
        "What would fit: --num-workers 1 or --driver-cpus 0"
    )


def test_a_trial_of_more_threads_than_cores_is_refused() -> None:
    with pytest.raises(ValueError, match=r"each trial needs 4 CPUs, .* has 2 CPUs free\. What would fit: --threads 2$"):
        preflight(TWO_CORES, Demand(cpus_a_worker=4.0), 12)


def test_a_population_whose_drivers_fill_the_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="a population of 4 holds 4 drivers") as caught:
        preflight([Node(4.0)], Demand(workers=2), 4, None, True)
    assert str(caught.value).endswith("What would fit: --num-workers 1 or --driver-cpus 0 or --trials 2")
    assert preflight([Node(4.0)], Demand(workers=2), 2, None, True) == Plan(1)


def test_nothing_smaller_fits_on_a_full_cluster() -> None:
    with pytest.raises(ValueError, match="Nothing smaller fits either: end what else runs"):
        preflight([Node(0.4)], Demand(), 3)


def test_too_many_at_once_are_narrowed_and_said() -> None:
    plan = preflight(TWO_CORES, Demand(), 12, wanted=5)
    assert plan.trials_at_once == 2
    assert plan.note == "5 trials at once do not fit: the cluster has 2 CPUs free, so 2 will run at once."
    assert preflight(TWO_CORES, Demand(), 12, wanted=1) == Plan(1)


def test_gpus_are_shared_on_one_device_only() -> None:
    node = [Node(16.0, 2.0)]
    assert preflight(node, Demand(gpus_a_worker=0.5), 12) == Plan(4)
    assert preflight(node, Demand(gpus_a_worker=0.4), 12) == Plan(4)  # not 5: two tenths of each are left over
    assert preflight(node, Demand(gpus_a_worker=2.0), 12) == Plan(1)
    with pytest.raises(ValueError, match=r"1 CPU and 3 GPUs, and the cluster has 16 CPUs and 2 GPUs free"):
        preflight(node, Demand(gpus_a_worker=3.0), 12)


def test_nonsense_is_refused() -> None:
    for wrong in ({"workers": 0}, {"cpus_a_worker": 0.0}, {"driver_cpus": -1.0}, {"gpus_a_worker": 1.5}):
        with pytest.raises(ValueError):
            Demand(**wrong)
    with pytest.raises(ValueError, match="0 trials"):
        preflight(TWO_CORES, Demand(), 0)
