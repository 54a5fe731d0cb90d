"""Trials: a run of Ray Tune whose trials have numbers and are told of as they go."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray import tune
from ray.tune.callback import Callback
from ray.tune.error import TuneError

MAX_RESTARTS = 3  # of a trial whose process was lost; what a trial itself fails of would only come again


class Listener(Protocol):
    """Told of every trial, in the process that runs them."""

    def started(self, number: int, trial: Mapping[str, Any]) -> None: ...
    def reported(self, number: int, result: Mapping[str, Any]) -> None: ...
    def ended(self, number: int) -> None: ...
    def lost(self, number: int, reason: str) -> None: ...


def run_trials(
    process: Callable[..., Any],
    reservation: Any,
    space: Mapping[str, Any],
    listener: Listener,
    folder: str,
    *,
    kept: int | None = None,
    **choices: Any,
) -> int:
    """Run `process` for each point of `space`, or of a searcher among `choices`; returns how many trials were over,
    fewer than all where Ctrl-C came.

    A trial's config is {"trial": {"number": ..., ...}}. `reservation` is what each trial holds of the cluster, `kept`
    how many of its checkpoints stay, and `choices` are further fields of Ray Tune's TuneConfig. What `listener` raises
    ends the run, and is raised here.
    """
    _quiet()
    telling = _Telling(listener)
    tuner = tune.Tuner(
        tune.with_resources(process, reservation),
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            reuse_actors=True,  # a process takes seconds to start: it is left to the next trial
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            **choices,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=folder,
            verbose=0,
            callbacks=[telling],
            failure_config=tune.FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=kept),
        ),
    )
    try:
        tuner.fit()
    except TuneError:
        if telling.error is None:
            raise
    if telling.error is not None:
        raise telling.error
    return telling.over


def _quiet() -> None:
    """What a trial does is told by the listener; Ray Tune's own files and tables are read by nobody."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that failed reports that alone
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _Telling(Callback):
    """Hands Ray Tune's events to the listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener: Listener | None = listener
        self.over = 0
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune pickles its callbacks, to resume by; we resume by what the listener wrote down."""
        return {**self.__dict__, "_listener": None}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("started", trial, trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._tell("reported", trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.over += 1
        self._tell("ended", trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.over += 1
        reason = (str(trial.get_error()).splitlines() or [""])[0]
        self._tell("lost", trial, f"its process was lost {MAX_RESTARTS + 1} times, at last with: {reason}")

    def _tell(self, event: str, trial: Any, *more: Any) -> None:
        assert self._listener is not None, "told in the process that runs the trials"
        try:
            getattr(self._listener, event)(int(str(trial)), *more)
        except Exception as error:
            self.error = self.error or error  # not raised: of some events Ray Tune would take it for the trial's own

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.error is not None:
            raise self.error  # it ends the run, which hands on no more than the text


def _name(trial: Any) -> str:
    return str(trial.config["trial"]["number"])
