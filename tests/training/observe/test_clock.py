"""The clock of steps, by a time that the test sets."""

import pytest

from training.observe import clock as module
from training.observe.clock import GPU_SAMPLE_EVERY, StepClock


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(module, "time", made)
    return made


def _step(clock: StepClock, time: Time) -> None:
    clock.start_step()
    time.now += 1
    clock.mark("data")
    time.now += 3
    clock.mark("forward")


def test_each_phase_gets_the_time_since_the_mark_before(time: Time) -> None:
    clock = StepClock()
    for _ in range(4):
        _step(clock, time)
        time.now += 100  # between two steps
    assert clock.seconds["data"] == 4
    assert clock.seconds["forward"] == 12


def test_what_comes_after_the_steps_begins_there(time: Time) -> None:
    clock = StepClock()
    _step(clock, time)
    time.now += 100
    clock.end_steps()
    time.now += 5
    clock.mark("validation")
    assert clock.seconds["validation"] == 5


def test_on_a_gpu_one_step_stands_for_many_and_an_epochs_end_for_itself(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda: waits.append(time.now))
    clock = StepClock(on_gpu=True)
    for _ in range(2 * GPU_SAMPLE_EVERY + 1):
        _step(clock, time)
    assert clock.seconds["data"] == 2 * GPU_SAMPLE_EVERY
    assert clock.seconds["forward"] == 6 * GPU_SAMPLE_EVERY
    assert len(waits) == 2 * 3  # a wait for the GPU at the start and after each phase, of the timed steps alone
    clock.end_steps()
    time.now += 5
    clock.mark("validation")
    assert clock.seconds["validation"] == 5


def test_what_only_the_inside_of_a_phase_can_tell_is_moved(time: Time) -> None:
    clock = StepClock()
    _step(clock, time)
    clock.move("forward", "communication", 1)
    assert (clock.seconds["forward"], clock.seconds["communication"]) == (2, 1)
