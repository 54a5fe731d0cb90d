"""What is told of the trials that Ray Tune runs. That it runs them is shown by the sweeps and searches on a cluster."""

import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from training.tuning.trials import MAX_RESTARTS, _Telling


class Trial:
    config: Mapping[str, Any] = {"trial": {"number": 7, "point": {"lr": 1}}}

    def __str__(self) -> str:
        return "7"

    def get_error(self) -> str:
        return "The worker died.\nIts trace"


class Noting:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def started(self, *said: Any) -> None:
        self.heard.append(("started", *said))

    def reported(self, *said: Any) -> None:
        self.heard.append(("reported", *said))

    def ended(self, *said: Any) -> None:
        self.heard.append(("ended", *said))

    def lost(self, *said: Any) -> None:
        self.heard.append(("lost", *said))


def test_a_listener_hears_of_each_trial_by_its_number() -> None:
    listener = Noting()
    telling = _Telling(listener)
    telling.on_trial_start(1, [], Trial())
    telling.on_trial_result(1, [], Trial(), {"accuracy": 0.5})
    telling.on_trial_complete(1, [], Trial())
    telling.on_trial_error(1, [], Trial())
    telling.on_step_end(1, [])
    assert telling.over == 2
    assert listener.heard == [
        ("started", 7, Trial.config["trial"]),
        ("reported", 7, {"accuracy": 0.5}),
        ("ended", 7),
        ("lost", 7, f"its process was lost {MAX_RESTARTS + 1} times, at last with: The worker died."),
    ]


@pytest.mark.parametrize("event", ["ended", "reported"])
def test_what_a_listener_fails_of_ends_the_run_and_not_the_trial(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*said: Any) -> None:
        raise OSError(f"the disk is full, {said[0]}")

    listener = Noting()
    monkeypatch.setattr(listener, event, fail)
    telling = _Telling(listener)
    telling.on_trial_result(1, [], Trial(), {})  # Ray Tune would take what is raised of it for the trial's own fault
    telling.on_trial_complete(1, [], Trial())
    with pytest.raises(OSError, match="the disk is full, 7"):
        telling.on_step_end(1, [])


def test_what_ray_tune_pickles_leaves_the_listener_behind() -> None:
    listener = Noting()
    listener.heard.append((lambda: None,))  # which cannot be pickled
    again = pickle.loads(pickle.dumps(_Telling(listener)))
    with pytest.raises(AssertionError, match="told in the process that runs the trials"):
        again.on_trial_start(1, [], Trial())
