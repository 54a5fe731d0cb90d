"""What a replica tells the autoscaler of itself."""

import pytest

from apps.scaling_signals import Signals, costs


class Clocks:
    def __init__(self):
        self.wall = self.thread = 100.0


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def signals(clocks):
    return Signals(lambda: clocks.wall, lambda: clocks.thread)


def test_rates_are_of_the_time_since_the_last_reading(signals, clocks):
    signals.arrived(5)
    signals.read()
    signals.arrived(30)
    signals.arrived(10)
    signals.refused(4)
    clocks.wall += 2.0
    clocks.thread += 0.5
    assert signals.read() == {"arrived_per_s": 20.0, "refused_per_s": 2.0, "loop_busy": 0.25}
    clocks.wall += 2.0
    assert signals.read() == {"arrived_per_s": 0.0, "refused_per_s": 0.0, "loop_busy": 0.0}


def test_the_first_reading_says_nothing(signals):
    signals.arrived(5)
    assert signals.read() == {}


def test_a_clock_that_stands_still_divides_nothing_by_zero(signals):
    signals.read()
    assert signals.read() == {}


def test_costs_lie_on_the_line_through_the_smallest_and_the_largest_call():
    assert costs(lambda rows: 0.010 + 0.002 * rows, 16) == pytest.approx(
        {"call_ms": 10.0, "row_ms": 2.0, "max_rows": 16.0}
    )


def test_costs_are_never_negative():
    assert costs(lambda rows: 0.010 / rows, 4) == pytest.approx({"call_ms": 2.5, "row_ms": 0.0, "max_rows": 4.0})
    assert costs(lambda rows: 0.001 * rows * rows, 4)["call_ms"] == 0.0
    assert costs(lambda rows: 0.010, 1) == pytest.approx({"call_ms": 10.0, "row_ms": 0.0, "max_rows": 1.0})


def test_an_unknown_pace_has_no_costs():
    assert costs(lambda rows: 0.0, 16) == {}
