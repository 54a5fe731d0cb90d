"""Search: the one door to Ray Tune. Starts trials where there is room, stops them, lets them copy each other.

What a trial does is said in `training/tuning/trial.py`, what is noted of it in `training/tuning/logbook.py`. Ray Tune
decides which trial runs when and which one stops, and moves a population's checkpoints.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.callback import Callback
from ray.tune.error import TuneError
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from training.launch.priority import give_way
from training.tuning.ledger import Exploit, Ledger, Score, Trial
from training.tuning.method import Method
from training.tuning.queue import Observer, Queue, Room
from training.tuning.space import Space
from training.tuning.study import Study
from training.tuning.trial import Report, TrialJob, run_trial

METRIC, TIME = "val_accuracy", "epoch"
MAX_RESTARTS = 3  # of a trial whose process was lost; what a trial itself fails of would only come again
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
    quiet()
    callback = _Telling(observer)
    trainable = tune.with_parameters(_trial_process, job=job, folder=str(ledger.folder))
    searcher = _TpeSearcher(method, space, queue) if method.name == "tpe" else None
    points = [{"number": number, "point": dict(point)} for number, point in queue.waiting.items()]
    tuner = tune.Tuner(
        tune.with_resources(trainable, _reservation(room)),
        param_space={} if searcher else {"trial": tune.grid_search(points)},
        tune_config=tune.TuneConfig(
            num_samples=len(queue) if searcher else 1,
            scheduler=_scheduler(method, space, epochs, queue.over),
            search_alg=searcher,
            # A population is under way from the beginning to the end, paused or not: the cluster's room bounds it.
            max_concurrent_trials=None if method.name == "pbt" else room.trials_at_once,
            reuse_actors=True,  # a process takes seconds to start: it is left to the next trial
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(ledger.folder / "checkpoints"),
            verbose=0,
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT),
        ),
    )
    try:
        tuner.fit()
    except TuneError:
        if callback.error:
            raise callback.error from None
        raise
    return callback.over == len(queue)


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


class _Telling(Callback):
    """Hands Ray Tune's events to the observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer: Observer | None = observer
        self._failures: dict[int, str] = {}
        self.over = 0
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune pickles its callbacks, to resume by; we resume by the ledger."""
        return {**self.__dict__, "_observer": None}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("started", int(str(trial)), trial.config["trial"]["point"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "failed" in result:
            self._failures[int(str(trial))] = result["failed"]
        else:
            self._tell("reported", int(str(trial)), _report(result["report"]), bool(result.get("done")))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.over += 1
        number = int(str(trial))
        if number in self._failures:
            self._tell("failed", number, self._failures[number])
        else:
            self._tell("ended", number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.over += 1
        lost = f"its process was lost {MAX_RESTARTS + 1} times, at last with: {str(trial.get_error()).splitlines()[0]}"
        self._tell("failed", int(str(trial)), lost)

    def _tell(self, event: str, *arguments: Any) -> None:
        try:
            getattr(self._observer, event)(*arguments)
        except Exception as error:
            self.error = error  # Ray Tune hands on no more than its text
            raise


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


def _name(trial: Any) -> str:
    return str(trial.config["trial"]["number"])


def quiet() -> None:
    """What a trial does is told by the observer; Ray Tune's own files and tables are read by nobody."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that failed reports that alone
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
