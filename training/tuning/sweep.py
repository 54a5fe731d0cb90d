"""Sweep: trials over a space of recipes on the cluster, noted in MLflow, gone on with after a kill."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.cluster import has_gpus
from training.recipe import Recipe, flatten
from training.registry import Registry, RegistryError, Run
from training.task import Source, Task, load_task
from training.tuning.cluster import join, plan_trials
from training.tuning.ledger import Ledger, Trial
from training.tuning.logbook import Logbook, best_trial
from training.tuning.method import Method
from training.tuning.preflight import Demand
from training.tuning.queue import Queue, Room
from training.tuning.report import publish
from training.tuning.segment import Workplace
from training.tuning.space import Space, parse_space
from training.tuning.trial import TrialJob


class SweepError(RuntimeError):
    """A sweep of which nothing came; the message says what its trials failed of."""


@dataclass(frozen=True)
class Request:
    """What a user asks for. `reference` names `recipe`, which every trial departs from by a point of `ranges`."""

    name: str
    reference: str
    recipe: Recipe
    source: Source
    method: Method
    ranges: tuple[str, ...]
    trials: int = 12  # grid has as many as it has points
    grid_points: int = 3  # of each range of numbers, for grid
    workers: int = 1
    threads: int = 1
    gpus: float | None = None  # of each worker; None: one where the cluster has any
    driver_cpus: float = 1.0
    wanted_at_once: int | None = None
    storage: Path = Path(".tandem/tune")
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.trials < 1 or self.grid_points < 2:
            raise ValueError(f"{self.trials} trials, {self.grid_points} points a range: give at least 1 and 2")
        if self.name in ("", ".", "..") or "/" in self.name:
            raise ValueError(f"the name {self.name!r} cannot be a folder's: use letters, digits, - and _")
        if self.method.name == "pbt" and self.wanted_at_once:
            raise ValueError(
                "a population trains all at once, as far as the cluster's room goes: leave --max-concurrent out"
            )


@dataclass(frozen=True)
class Outcome:
    """`complete` is False where Ctrl-C ended it; the same request then goes on."""

    trials: Mapping[int, Trial]
    run_id: str
    complete: bool

    @property
    def best(self) -> Trial | None:
        return best_trial(self.trials)


def run_sweep(request: Request, registry: Registry) -> Outcome:
    """Run, or go on with, the sweep that `request.name` stands for in `request.storage`.

    Raises ValueError, before anything is written, on a request that cannot be run, with what could; SweepError where
    every trial failed.
    """
    space = parse_space(request.recipe, request.ranges)
    epochs = most_epochs(request.recipe, space)
    numbers = range(len(space.grid(request.grid_points)) if request.method.name == "grid" else request.trials)
    request.method.require_fitting(space, len(numbers), epochs)
    task = load_task(request.recipe.task, request.source, request.recipe.task_params)
    ledger = Ledger((request.storage / request.name).resolve())
    with ledger.locked():
        if request.fresh:
            ledger.clear()
        identity = _identity(request, task)
        ledger.require_same(identity)
        queue = _queue(request, space, numbers, ledger.trials())
        room = _room(request, len(queue)) if queue else None
        ledger.begin(identity)
        parent = _parent_run(request, task, registry, ledger)
        logbook = Logbook(ledger, registry, task.name, parent, len(numbers), logs_epochs=request.workers == 1)
        try:
            complete = room is None or _search(
                request, space, epochs, queue, room, ledger, logbook, registry.tracking_uri
            )
            outcome = Outcome(logbook.trials, parent.run_id, complete)
            _conclude(request, space, outcome, parent, ledger)
        except BaseException:
            # A server that has gone must not hide what went wrong before it.
            with contextlib.suppress(RegistryError):
                logbook.close()
                parent.end("FAILED")
            raise
        logbook.close()
        parent.end("FINISHED" if complete else "KILLED")
    return outcome


def most_epochs(recipe: Recipe, space: Space) -> int:
    """The epochs of the longest trial that `space` allows."""
    ends = [one for one in space.ranges if one.field == "epochs"]
    if not ends:
        return recipe.epochs
    return max(int(value) for value in (ends[0].choices or (ends[0].low, ends[0].high)))


def _identity(request: Request, task: Task) -> dict[str, Any]:
    """What makes two requests the same sweep. More trials may be asked for later, but of a grid or a population."""
    identity: dict[str, Any] = {
        "recipe": {field: str(value) for field, value in flatten(request.recipe).items()},
        "ranges": list(request.ranges),
        "method": asdict(request.method),
        "data": task.data_hash,
    }
    if request.method.name == "grid":
        identity["grid points"] = request.grid_points
    if request.method.name == "pbt":
        identity["trials"] = request.trials
    return identity


def _queue(request: Request, space: Space, numbers: Sequence[int], known: Mapping[int, Trial]) -> Queue:
    """What is left to do: trials that were cut off, with the points that they had, and those not begun."""
    waiting = {number: trial.point for number, trial in known.items() if trial.status == "running"}
    new = [number for number in numbers if number not in known]
    over = tuple(trial for trial in known.values() if trial.status != "running")
    if request.method.name == "tpe":
        return Queue(waiting, tuple(new), over)
    grid = space.grid(request.grid_points) if request.method.name == "grid" else []
    points = {number: grid[number] if grid else space.sample(request.method.seed, number) for number in new}
    return Queue({**waiting, **points}, (), over)


def _room(request: Request, trials: int) -> Room:
    """Join the cluster and see what it holds; says where that is less than was asked for."""
    join()
    gpus = request.gpus if request.gpus is not None else float(has_gpus())
    demand = Demand(request.workers, float(request.threads), gpus, request.driver_cpus)
    plan = plan_trials(demand, trials, request.wanted_at_once, request.method.name == "pbt")
    if plan.note:
        print(plan.note, flush=True)
    many = f"{trials} trials, {plan.trials_at_once} at once" if trials > 1 else "1 trial"
    print(f"{request.name}: {many}, by {request.method.name}", flush=True)
    if demand.has_driver:
        return Room(demand.driver_cpus, 0.0, plan.trials_at_once, gpus)
    return Room(demand.cpus_a_worker, gpus, plan.trials_at_once, gpus)


def _parent_run(request: Request, task: Task, registry: Registry, ledger: Ledger) -> Run:
    if ledger.run_id:
        run = registry.run(ledger.run_id)
        run.reopen()
        return run
    method = request.method
    tags = {
        "tandem.recipe": request.reference,
        "tandem.data_hash": task.data_hash,
        "tandem.sweep": request.name,
        "tandem.search": method.name,
    }
    run = registry.start_run(task.name, f"sweep {request.name}", tags)
    ledger.set_run_id(run.run_id)
    run.log_params({**flatten(request.recipe), **{f"sweep.{key}": value for key, value in asdict(method).items()}})
    run.log_params({f"sweep.range.{text.partition('=')[0]}": text.partition("=")[2] for text in request.ranges})
    return run


def _search(
    request: Request,
    space: Space,
    epochs: int,
    queue: Queue,
    room: Room,
    ledger: Ledger,
    logbook: Logbook,
    tracking_uri: str,
) -> bool:
    from training.tuning.search import run_search

    workplace = Workplace(
        request.workers, request.threads, room.gpus_a_worker, ledger.folder / "checkpoints" / "workers", tracking_uri
    )
    decisions = request.method.decisions(epochs)
    job = TrialJob(request.recipe, request.source, workplace, decisions, copying=request.method.name == "pbt")
    return run_search(request.method, space, epochs, job, queue, room, ledger, logbook)


def _conclude(request: Request, space: Space, outcome: Outcome, parent: Run, ledger: Ledger) -> None:
    """Publish what was found, whether or not all trials are over; raises SweepError where all failed."""
    trials = list(outcome.trials.values())
    best = outcome.best
    if best is None:
        if outcome.complete:
            raise SweepError(f"all {len(trials)} trials failed; trial {trials[0].number} with: {trials[0].error}")
        return
    publish(request.name, request.method, space, trials, best, parent)
    if outcome.complete:
        ledger.drop_checkpoints()
