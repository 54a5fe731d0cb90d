"""On Tune: the pipelines of one rung as trials of Ray Tune, which starts each where there is room.

Which pipelines go on to the next rung is not Ray Tune's to say: its schedulers compare one figure, and stop a trial
before those that it is to be compared with have been measured beside it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from optimization.measure.exclusive import shared
from optimization.search.book import Result
from optimization.search.making import Made, Workshop, make
from optimization.search.pipeline import Pipeline
from training.launch.priority import give_way
from training.tuning.queue import Room


class Observer(Protocol):
    """Told of everything, in the process that searches."""

    def stage(self, number: int, said: str) -> None: ...
    def over(self, result: Result) -> None: ...


def run_rung(
    pipelines: Mapping[int, Pipeline], share: float, shop: Workshop, room: Room, folder: str, observer: Observer
) -> bool:
    """Carry out `pipelines` by number, in their order; False where Ctrl-C ended it before all were over."""
    from ray import tune

    from training.tuning.trials import run_trials

    trials = [{"number": number, "pipeline": one.to_json()} for number, one in pipelines.items()]
    over = run_trials(
        tune.with_parameters(_process, share=share, shop=shop),
        {"CPU": room.cpus, "GPU": room.gpus},
        {"trial": tune.grid_search(trials)},
        _Listening(observer),
        folder,
        max_concurrent_trials=room.trials_at_once,
    )
    return over == len(pipelines)


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


class _Listening:
    """What the observer is told of the trials."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def started(self, number: int, trial: Mapping[str, Any]) -> None:
        """Nothing: its stages are told."""

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        if "stage" in result:
            self._observer.stage(number, result["stage"])
        elif "failed" in result:
            self._observer.over(Result(number, None, result["failed"]))
        elif "made" in result:
            self._observer.over(Result(number, Made.from_json(result["made"])))

    def ended(self, number: int) -> None:
        """Nothing: its last report told it."""

    def lost(self, number: int, reason: str) -> None:
        self._observer.over(Result(number, None, reason))
