import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, RayServeException

from apps.backends.backend import ONE_BY_ONE, HandleBackend, LocalBackend
from apps.batching.batcher import Batcher, BatchLimits
from apps.model import Reply
from apps.observe.tracing import NoTracing
from apps.refusal import Refused, RefusedError

ROWS = np.ones((2, 3), np.float32)
LOGITS = np.zeros((2, 4), np.float32)


class Response:
    """What a Serve handle gives: `outcome` after a while, one by one where it is iterated over."""

    def __init__(self, outcome, after_s):
        self.outcome = outcome
        self.after_s = after_s
        self.cancelled = False

    def __await__(self):
        return self._wait().__await__()

    async def _wait(self):
        await asyncio.sleep(self.after_s)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def __aiter__(self):
        for ready in await self:
            yield ready

    def cancel(self):
        self.cancelled = True


class Handle:
    """A Serve handle whose `infer` gives or raises `outcome`, and whose `infer_many` streams `many`."""

    def __init__(self, outcome=None, after_s=0.0, many=()):
        self.asked = []
        self.responses = []

        def method(outcome):
            def remote(*args):
                self.asked.append(args)
                self.responses.append(Response(outcome, after_s))
                return self.responses[-1]

            return SimpleNamespace(remote=remote)

        self.infer = method(outcome)
        self.infer_many = method(many)

    def options(self, *, stream):
        assert stream
        return self


def infer(outcome, timeout_s=1.0, after_s=0.0):
    return asyncio.run(HandleBackend(Handle(outcome, after_s), classes=4).infer(ROWS, timeout_s))


def reason_of(outcome, **how):
    with pytest.raises(RefusedError) as caught:
        infer(outcome, **how)
    return caught.value.refused.reason


def test_a_reply_gives_its_logits():
    assert infer(Reply(LOGITS, 5)) is LOGITS


def test_the_remaining_time_travels_with_the_call():
    handle = Handle(Reply(LOGITS, 0))
    asyncio.run(HandleBackend(handle, 4).infer(ROWS, 0.5))
    ((call,),) = handle.asked
    assert 0.4 < call.timeout_s <= 0.5


def test_the_trace_of_the_request_travels_with_the_call():
    class Traced(NoTracing):
        def carried(self):
            return "00-1-2-01"

    handle = Handle(Reply(LOGITS, 0))
    asyncio.run(HandleBackend(handle, 4, tracing=Traced()).infer(ROWS, 0.5))
    ((call,),) = handle.asked
    assert call.trace == "00-1-2-01"


def test_requests_that_come_together_go_as_one_call_and_each_gets_its_own():
    other = np.ones((2, 4), np.float32)
    many = [[(1, Refused("overload", "full"))], [(2, Reply(other, 0)), (0, Reply(LOGITS, 0))]]
    handle = Handle(many=many)

    async def scenario():
        backend = HandleBackend(handle, 4)
        return await asyncio.gather(*(backend.infer(ROWS, 1.0) for _ in range(3)), return_exceptions=True)

    first, second, third = asyncio.run(scenario())
    assert first is LOGITS
    assert second.refused.detail == "full"
    assert third is other
    assert [len(args[0]) for args in handle.asked] == [3]


def test_one_by_one_gathers_nothing():
    handle = Handle(Reply(LOGITS, 0))

    async def scenario():
        backend = HandleBackend(handle, 4, ONE_BY_ONE)
        await asyncio.gather(*(backend.infer(ROWS, 1.0) for _ in range(3)))

    asyncio.run(scenario())
    assert len(handle.asked) == 3


@pytest.mark.parametrize("together", [1, 2])
def test_a_call_that_nobody_waits_for_is_cancelled_at_the_model(together):
    handle = Handle(Reply(LOGITS, 0), after_s=5, many=[[]])

    async def scenario():
        backend = HandleBackend(handle, 4)
        tasks = [asyncio.ensure_future(backend.infer(ROWS, 1.0)) for _ in range(together)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    assert [response.cancelled for response in handle.responses] == [True]


def test_a_refusal_by_the_model_is_passed_on_as_it_is():
    assert reason_of(Refused("overload", "full", 7)) == "overload"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BackPressureError(10, 10), "overload"),
        (ActorDiedError(), "unavailable"),
        (ActorUnavailableError("gone", None), "unavailable"),
        (RayServeException("no replica"), "unavailable"),
        (ValueError("the model stumbled"), "unavailable"),
    ],
)
def test_what_ray_raises_becomes_a_refusal(error, reason):
    assert reason_of(error) == reason


def test_an_answer_that_does_not_come_in_time_is_a_timeout():
    assert reason_of(Reply(LOGITS, 0), timeout_s=0.01, after_s=5) == "timeout"


@pytest.mark.parametrize("logits", [np.zeros((1, 4), np.float32), np.zeros((2, 5), np.float32)])
def test_logits_of_another_shape_are_not_believed(logits):
    assert reason_of(Reply(logits, 0)) == "unavailable"


def local(run, timeout_s):
    async def scenario():
        batcher = Batcher(run, BatchLimits())
        try:
            return await LocalBackend(batcher).infer(ROWS, timeout_s)
        finally:
            batcher.close()

    return asyncio.run(scenario())


def test_a_local_model_that_fails_is_unavailable():
    def run(batch):
        raise ValueError("no")

    with pytest.raises(RefusedError, match="the model failed: no") as caught:
        local(run, None)
    assert caught.value.refused.reason == "unavailable"


def test_a_local_model_that_hangs_times_out():
    import threading

    held = threading.Event()

    def run(batch):
        held.wait(5)
        return LOGITS

    try:
        with pytest.raises(RefusedError) as caught:
            local(run, 0.02)
    finally:
        held.set()
    assert caught.value.refused.reason == "timeout"
