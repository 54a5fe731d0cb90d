"""Search: the trials of a sweep. Ray Tune starts them where there is room, stops them, lets them copy each other.

What a trial does is said in `training/tuning/trial.py`, what is noted of it in `training/tuning/logbook.py`. Ray Tune
decides which trial runs when and which one stops, and moves a population's checkpoints.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from training.launch.priority import give_way
from training.tuning.ledger import Exploit, Ledger, Score, Trial
from training.tuning.method import Method
from training.tuning.queue import Observer, Queue, Room
from training.tuning.space import Space
from training.tuning.study import Study
from training.tuning.trial import Report, TrialJob, run_trial
from training.tuning.trials import run_trials

METRIC, TIME = "val_accuracy", "epoch"
DRIVER_BYTES = 256 * 2**20  # a driver that holds no CPU has to hold something
THREAD_END_S = "120"  # how long a stopped trial may take to leave its process to the next
KEPT = 4  # checkpoints of a population's trials: a loser copies what the winner had some epochs ago


def run_search(
    method: Method,
    space: Space,
    epochs: int,
    job: TrialJob,
    queue: Queue,
    room: Room,
    ledger: Ledger,
    observer: Observer,
) -> bool:
    """Run the trials of `queue`; `epochs` are the most that one may train.

    False where Ctrl-C ended it before all were over (a second Ctrl-C does not wait for trials to close).
    """
    trainable = tune.with_parameters(_trial_process, job=job, folder=str(ledger.folder))
    searcher = _TpeSearcher(method, space, queue) if method.name == "tpe" else None
    points = [{"number": number, "point": dict(point)} for number, point in queue.waiting.items()]
    over = run_trials(
        trainable,
        _reservation(room),
        {} if searcher else {"trial": tune.grid_search(points)},
        _Listening(observer),
        str(ledger.folder / "checkpoints"),
        kept=KEPT,
        num_samples=len(queue) if searcher else 1,
        scheduler=_scheduler(method, space, epochs, queue.over),
        search_alg=searcher,
        # A population is under way from the beginning to the end, paused or not: the cluster's room bounds it.
        max_concurrent_trials=None if method.name == "pbt" else room.trials_at_once,
    )
    return over == len(queue)


def _trial_process(config: dict[str, Any], job: TrialJob, folder: str) -> None:
    """A trial, in a process of Ray Tune's that it may have from another trial."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = THREAD_END_S
    give_way()
    # Not config's number: a loser of a population is given the winner's config.
    number = int(tune.get_context().get_trial_name())
    ledger = Ledger(Path(folder))

    def say(report: Report) -> None:
        # Ray copies a checkpoint, so it is given where another trial, or this one after a pause, goes on from it.
        copied = tune.Checkpoint.from_directory(report.checkpoint) if job.copying and report.checkpoint else None
        said = asdict(report) | {"checkpoint": None}
        tune.report({TIME: report.score.epoch, METRIC: report.score.val_accuracy, "report": said}, checkpoint=copied)

    given = tune.get_checkpoint()
    start = Path(given.path) if given else None
    try:
        run_trial(
            job, number, config["trial"]["point"], ledger.checkpoints(number), start, ledger.trial(number).run_id, say
        )
    # Said and not raised: Ray Tune would begin the trial again, as if its process had been lost.
    except Exception as error:
        tune.report({"failed": f"{type(error).__name__}: {error}"})


class _Listening:
    """What the observer is told of the trials."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failures: dict[int, str] = {}

    def started(self, number: int, trial: Mapping[str, Any]) -> None:
        self._observer.started(number, trial["point"])

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        if "failed" in result:
            self._failures[number] = result["failed"]
        else:
            self._observer.reported(number, _report(result["report"]), bool(result.get("done")))

    def ended(self, number: int) -> None:
        if number in self._failures:
            self._observer.failed(number, self._failures[number])
        else:
            self._observer.ended(number)

    def lost(self, number: int, reason: str) -> None:
        self._observer.failed(number, reason)


def _report(said: Mapping[str, Any]) -> Report:
    exploit = Exploit(**said["exploit"]) if said["exploit"] else None
    return Report(Score(**said["score"]), said["last_epoch"], None, exploit)


class _TpeSearcher(Searcher):
    """Asks the study for a point where Ray Tune has room for a trial, and tells it how that one did."""

    def __init__(self, method: Method, space: Space, queue: Queue) -> None:
        super().__init__()
        self._study = Study(space, method.seed)
        for trial in queue.over:
            if trial.scores:
                self._study.recall(trial.initial, trial.accuracy)
        self._waiting, self._more = dict(queue.waiting), list(queue.more)
        self._numbers: dict[str, int] = {}
        self._best: dict[str, float] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._waiting:
            number = next(iter(self._waiting))
            point = self._waiting.pop(number)
            self._study.adopt(number, point)
        elif self._more:
            number = self._more.pop(0)
            point = self._study.ask(number)
        else:
            return None
        self._numbers[trial_id] = number
        return {"trial": {"number": number, "point": dict(point)}}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if METRIC in result:
            self._best[trial_id] = max(result[METRIC], self._best.get(trial_id, -1.0))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        failed = error or "failed" in (result or {})
        self._study.tell(self._numbers[trial_id], None if failed else self._best.get(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger holds it."""
        Path(checkpoint_path).touch()


class _Halving(AsyncHyperBandScheduler):
    """Asynchronous halving that assigns brackets by the trial's number, and knows the trials of earlier processes."""

    def __init__(self, method: Method, epochs: int, over: Sequence[Trial]) -> None:
        self._seed = method.seed
        super().__init__(
            time_attr=TIME, metric=METRIC, mode="max", max_t=epochs, grace_period=method.grace,
            reduction_factor=method.reduction,
            brackets=len(method.decisions(epochs)) if method.name == "hyperband" else 1,
        )  # fmt: skip
        nobody: Any = None  # no controller runs these trials, and none is asked
        for past in over:
            trial: Any = _PastTrial(past.number)
            self.on_trial_add(nobody, trial)
            for score in past.scores:
                self.on_trial_result(nobody, trial, {TIME: score.epoch, METRIC: score.val_accuracy})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        np.random.seed([self._seed, int(str(trial))])  # where Ray Tune draws a trial's bracket from
        super().on_trial_add(tune_controller, trial)


class _PastTrial:
    """As much of a trial as a scheduler asks of it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.trial_id = f"past-{number}"

    def __str__(self) -> str:
        return str(self._number)


class _Explore:
    """A winner's config -> the one that its copier goes on with."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._generator = space, np.random.default_rng((seed, 1))

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        point = self._space.perturb(config["trial"]["point"], self._generator)
        return {**config, "trial": {**config["trial"], "point": dict(point)}}


def _scheduler(method: Method, space: Space, epochs: int, over: Sequence[Trial]) -> TrialScheduler:
    if method.halves:
        return _Halving(method, epochs, over)
    if method.name == "pbt":
        return PopulationBasedTraining(
            time_attr=TIME, metric=METRIC, mode="max", perturbation_interval=method.interval,
            custom_explore_fn=_Explore(space, method.seed), log_config=False, require_attrs=False,
        )  # fmt: skip
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def _reservation(room: Room) -> Any:
    bundle: dict[str, int | float] = {"CPU": room.cpus, "GPU": room.gpus} if room.cpus else {"memory": DRIVER_BYTES}
    return tune.PlacementGroupFactory([bundle])
