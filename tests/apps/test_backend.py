import asyncio

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, RayServeException

from apps.backend import HandleBackend, LocalBackend
from apps.batcher import Batcher, BatchLimits
from apps.model import Reply
from apps.refusal import Refused, RefusedError

ROWS = np.ones((2, 3), np.float32)
LOGITS = np.zeros((2, 4), np.float32)


class Handle:
    """A Serve handle whose `infer` gives or raises `outcome`."""

    def __init__(self, outcome, after_s=0.0):
        self.outcome = outcome
        self.after_s = after_s
        self.infer = self
        self.asked = []

    async def remote(self, rows, timeout_s):
        self.asked.append(timeout_s)
        await asyncio.sleep(self.after_s)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


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
    asyncio.run(HandleBackend(handle, 4).infer(ROWS, 0.02))
    assert handle.asked == [0.02]


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
