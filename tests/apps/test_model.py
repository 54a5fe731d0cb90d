"""The deployment's class without Serve: what stands behind its hand-over."""

import asyncio

import numpy as np
import pytest

from apps.backends.exchange import Call, Reply
from apps.batching.batcher import Batcher, BatchLimits
from apps.model import Model
from apps.refusal import Refused


def rows(*values):
    return np.array(values, dtype=np.float32)[:, None]


@pytest.fixture
def make(monkeypatch):
    """A Model over `run`, whose hand-over is a plain call."""
    made = []

    async def hand_over(self, calls):
        (handed,) = await handed_over(self, [calls])
        return handed

    handed_over = Model._hand_over.__wrapped__
    monkeypatch.setattr(Model, "_hand_over", hand_over)

    def make(run=lambda batch: np.repeat(2 * batch, 2, axis=1), **limits):
        model = Model.__new__(Model)
        made.append(Batcher(run, BatchLimits(**limits)))
        model._stand_on(made[-1], "tandem", 32)
        return model

    yield make
    for batcher in made:
        batcher.close()


async def groups(model, *calls):
    return [ready async for ready in model.infer_many(calls)]


def test_one_request_gets_its_logits(make):
    reply = asyncio.run(make().infer(Call(rows(1, 2), 1.0)))
    assert reply.logits.tolist() == [[2, 2], [4, 4]]
    assert reply.queue_rows == 0


def test_one_request_that_is_refused_gets_a_value(make):
    assert asyncio.run(make(max_queue_rows=1).infer(Call(rows(1, 2), 1.0))).reason == "overload"


def test_requests_that_ran_together_come_together(make):
    ((first, second),) = asyncio.run(groups(make(), Call(rows(1), None), Call(rows(2, 3), None)))
    assert (first[0], first[1].logits.tolist()) == (0, [[2, 2]])
    assert (second[0], second[1].logits.tolist()) == (1, [[4, 4], [6, 6]])


def test_a_refusal_comes_before_the_logits_of_the_others(make):
    calls = [Call(rows(1), None), Call(rows(1, 2, 3, 4), None), Call(rows(5), None)]
    refusals, answers = asyncio.run(groups(make(max_queue_rows=3), *calls))
    assert [(index, type(answered)) for index, answered in refusals] == [(1, Refused)]
    assert [(index, type(answered)) for index, answered in answers] == [(0, Reply), (2, Reply)]


def test_a_request_that_cannot_be_run_does_not_fail_the_others(make):
    def run(batch):
        if 13 in batch:
            raise ValueError("unlucky")
        return batch

    (ready,) = asyncio.run(groups(make(run), Call(rows(13), None), Call(rows(2), None)))
    assert ready[0][1] == Refused("unavailable", "the model failed: unlucky")
    assert ready[1][1].logits.tolist() == [[2]]


@pytest.mark.parametrize("many", [False, True])
def test_a_caller_that_goes_takes_its_rows_out_of_the_queue(make, many):
    async def scenario():
        model = make()
        await asyncio.sleep(0)
        ask = groups(model, Call(rows(1), None), Call(rows(2), None)) if many else model.infer(Call(rows(1), None))
        task = asyncio.ensure_future(ask)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return model._batcher.queue_rows

    assert asyncio.run(scenario()) == 0
