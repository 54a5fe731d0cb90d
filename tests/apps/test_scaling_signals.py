"""What a replica tells the autoscaler of itself."""

import asyncio

import numpy as np
import pytest

from apps.batching.batcher import Batcher, BatchLimits
from apps.refusal import RefusedError
from apps.scaling_signals import LoopSignals, ModelSignals, costs


class Clocks:
    def __init__(self):
        self.wall = self.thread = 100.0

    def pass_s(self, wall_s, thread_s=0.0):
        self.wall += wall_s
        self.thread += thread_s


@pytest.fixture
def clocks():
    return Clocks()


def test_the_loop_is_busy_for_the_share_of_time_that_its_thread_ran(clocks):
    signals = LoopSignals(lambda: clocks.wall, lambda: clocks.thread)
    assert signals.read() == {}
    clocks.pass_s(2.0, 0.5)
    assert signals.read() == {"loop_busy": 0.25}
    clocks.pass_s(1.0)
    assert signals.read() == {"loop_busy": 0.0}
    # A clock that stood still divides nothing by zero.
    assert signals.read() == {}


def signals_of(batcher, clocks):
    return ModelSignals(batcher, lambda rows: 0.010 + 0.002 * rows, 16, lambda: clocks.wall, lambda: clocks.thread)


def rows(count):
    return np.zeros((count, 2), np.float32)


def test_rows_that_ran_and_rows_that_were_refused_have_arrived(clocks):
    heard = []

    async def scenario():
        limits = BatchLimits(max_batch_rows=8, max_queue_rows=8)
        batcher = Batcher(lambda batch: batch, limits, on_batch=heard.append, on_shed=heard.append)
        signals = signals_of(batcher, clocks)
        signals.read()
        await asyncio.gather(*(batcher.submit(rows(2)) for _ in range(4)))
        with pytest.raises(RefusedError):
            await batcher.submit(rows(9))
        clocks.pass_s(2.0, 1.0)
        told = signals.read()
        clocks.pass_s(2.0)
        later = signals.read()
        batcher.close()
        return told, later

    told, later = asyncio.run(scenario())
    # Eight rows in four requests, and a refused one that is taken for two rows.
    assert told == {
        "arrived_per_s": 5.0,
        "refused_per_s": 1.0,
        "loop_busy": 0.5,
        "call_ms": pytest.approx(10.0),
        "row_ms": pytest.approx(2.0),
        "max_rows": 16.0,
    }
    assert (later["arrived_per_s"], later["refused_per_s"]) == (0.0, 0.0)
    # Whoever listened before goes on hearing.
    assert sum(record.rows for record in heard if record != "full") == 8
    assert heard.count("full") == 1


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
