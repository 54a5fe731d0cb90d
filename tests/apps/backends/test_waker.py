"""One call waits at a model that is asleep."""

import asyncio

from apps.backends.waker import Waker
from apps.refusal import Refused, RefusedError


class Model:
    """Refuses `refusals` calls, then answers when told to."""

    def __init__(self, refusals=0):
        self.calls = 0
        self.awake = asyncio.Event()
        self._refusals = refusals

    async def __call__(self):
        self.calls += 1
        if self.calls <= self._refusals:
            raise RefusedError(Refused("timeout", "still asleep"))
        await self.awake.wait()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_call_waits_however_often_it_is_asked_for():
    async def scenario():
        model = Model()
        waker = Waker(model)
        assert not waker.is_waiting
        for _ in range(5):
            waker.wake()
            await settle()
        assert (waker.is_waiting, model.calls) == (True, 1)
        model.awake.set()
        await settle()
        assert not waker.is_waiting

    asyncio.run(scenario())


def test_it_calls_again_after_a_refusal():
    async def scenario():
        model = Model(refusals=2)
        model.awake.set()
        waker = Waker(model, pause_s=0)
        waker.wake()
        await settle()
        assert (waker.is_waiting, model.calls) == (False, 3)

    asyncio.run(scenario())


def test_a_model_that_slept_again_is_woken_again():
    async def scenario():
        model = Model()
        model.awake.set()
        waker = Waker(model)
        for expected in (1, 2):
            waker.wake()
            await settle()
            assert (waker.is_waiting, model.calls) == (False, expected)

    asyncio.run(scenario())


def test_closing_ends_the_call():
    async def scenario():
        model = Model()
        waker = Waker(model)
        waker.wake()
        await settle()
        waker.close()
        await settle()
        assert not waker.is_waiting

    asyncio.run(scenario())
