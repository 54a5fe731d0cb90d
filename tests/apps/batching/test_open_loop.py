"""The Batcher before a model that takes 100 ms a call, under requests that come whether or not it keeps up."""

import asyncio
import time

import numpy as np
import pytest

from apps.batching.batcher import Batcher, BatchLimits
from tests.apps.open_loop import open_loop, quantile

pytestmark = pytest.mark.slow

MODEL_S = 0.100
ROW = np.zeros((1, 4), np.float32)


def model(batch):
    time.sleep(MODEL_S)
    return np.zeros((len(batch), 2), np.float32)


def latencies_s(rate, seconds, timeout_s=None):
    """And the size of the mean batch."""
    records = []

    async def scenario():
        batcher = Batcher(model, BatchLimits(64, 4_096), on_batch=records.append)
        batcher.warm_up(ROW[0])
        try:
            return await open_loop(lambda: batcher.submit(ROW, timeout_s), rate, seconds)
        finally:
            batcher.close()

    measured = asyncio.run(scenario())
    return measured, sum(record.rows for record in records) / len(records)


def first_or_second(measure, bound):
    """What `measure` gives first, where that is below `bound`, or else the second time.

    Half a second for which the machine stood still is no matter of batching.
    """
    first = measure()
    return first if first < bound else measure()


def test_at_200_a_second_batches_grow_and_the_p95_stays_within_300_ms():
    def p95_s():
        measured, mean_rows = latencies_s(rate=200, seconds=6)
        assert mean_rows > 15
        return quantile(measured, 0.95)

    assert first_or_second(p95_s, 0.300) <= 0.300


def test_at_5_a_second_a_request_takes_no_longer_than_a_batch_of_one():
    alone = []
    for _ in range(10):
        started = time.perf_counter()
        model(ROW)
        alone.append(time.perf_counter() - started)

    async def scenario():
        batcher = Batcher(model, BatchLimits(64, 4_096))
        waits = []
        for _ in range(20):
            started = time.perf_counter()
            await batcher.submit(ROW)
            waits.append(time.perf_counter() - started)
            await asyncio.sleep(0.1)
        batcher.close()
        return waits

    # One at a time, five a second: at random moments half of them would meet another, which is no matter of batching.
    assert quantile(asyncio.run(scenario()), 0.5) <= quantile(alone, 0.5) + 0.002


def test_with_deadlines_nearly_all_are_answered_in_time_at_200_a_second():
    def late():
        measured, _ = latencies_s(rate=200, seconds=6, timeout_s=0.300)
        return sum(latency > 0.302 for latency in measured) / len(measured)

    assert first_or_second(late, 0.05) < 0.05
