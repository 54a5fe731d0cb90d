"""On Tune: the pipelines of one rung as trials of Ray Tune, which starts each where there is room.

Which pipelines go on to the next rung is not Ray Tune's to say: its schedulers compare one figure, and stop a trial
before those that it is to be compared with have been measured beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from optimization.measure.exclusive import shared
from optimization.search.book import Result
from optimization.search.making import Made, Workshop, make
from optimization.search.pipeline import Pipeline
from training.launch.priority import give_way
from training.tuning.queue import Room

MAX_RESTARTS = 2  # of a trial whose process was lost; what a pipeline itself fails of would only come again


class Observer(Protocol):
    """Told of everything, in the process that searches."""

    def stage(self, number: int, said: str) -> None: ...
    def over(self, result: Result) -> None: ...


def run_rung(
    pipelines: Mapping[int, Pipeline], share: float, shop: Workshop, room: Room, folder: str, observer: Observer
) -> bool:
    """Carry out `pipelines` by number, in their order; False where Ctrl-C ended it before all were over."""
    from ray import tune
    from ray.tune.error import TuneError

    from training.tuning.search import quiet

    quiet()
    callback = _telling(observer)
    trials = [{"number": number, "pipeline": one.to_json()} for number, one in pipelines.items()]
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_process, share=share, shop=shop), {"CPU": room.cpus, "GPU": room.gpus}
        ),
        param_space={"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=room.trials_at_once,
            reuse_actors=True,  # a process takes seconds to start: it is left to the next pipeline
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=folder,
            verbose=0,
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )
    try:
        tuner.fit()
    except TuneError:
        if callback.error:
            raise callback.error from None
        raise
    return bool(callback.count == len(pipelines))


def _process(config: dict[str, Any], share: float, shop: Workshop) -> None:
    """A trial, in a process of Ray Tune's that it may have from another trial."""
    from ray import tune

    give_way()
    pipeline = Pipeline.from_json(config["trial"]["pipeline"])

    def say(stage: str) -> None:
        tune.report({"stage": stage})

    try:
        with shared(f"making {pipeline.label}"):
            made = make(pipeline, share, shop, say)
        tune.report({"made": asdict(made)})
    # Said and not raised: Ray Tune would begin the trial again, as if its process had been lost.
    except Exception as error:
        tune.report({"failed": str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"})


def _telling(observer: Observer) -> Any:
    from ray.tune.callback import Callback

    class Telling(Callback):
        """Hands Ray Tune's events to the observer."""

        def __init__(self) -> None:
            self.count = 0
            self.error: Exception | None = None
            self._observer: Observer | None = observer

        def __getstate__(self) -> dict[str, Any]:
            """Ray Tune pickles its callbacks, to resume by; we resume by the book."""
            return {**self.__dict__, "_observer": None}

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            number = int(str(trial))
            if "stage" in result:
                self._tell(lambda told: told.stage(number, result["stage"]))
            elif "failed" in result:
                self._over(Result(number, None, result["failed"]))
            elif "made" in result:
                self._over(Result(number, Made.from_json(result["made"])))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            reason = str(trial.get_error()).splitlines()[0]
            lost = f"its process was lost {MAX_RESTARTS + 1} times, at last with: {reason}"
            self._over(Result(int(str(trial)), None, lost))

        def _over(self, result: Result) -> None:
            self.count += 1
            self._tell(lambda told: told.over(result))

        def _tell(self, event: Callable[[Observer], None]) -> None:
            assert self._observer is not None, "told in the process that searches"
            try:
                event(self._observer)
            except Exception as error:
                self.error = error  # Ray Tune hands on no more than its text
                raise

    return Telling()


def _name(trial: Any) -> str:
    return str(trial.config["trial"]["number"])
