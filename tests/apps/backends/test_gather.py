"""What goes to a model together, under a model elsewhere that answers when the test says so."""

import asyncio

import numpy as np
import pytest

from apps.backends.exchange import Reply
from apps.backends.gather import Gather, GatherLimits
from apps.refusal import Refused, RefusedError


def rows(*values):
    return np.array(values, dtype=np.float32)[:, None]


class Far:
    """A model elsewhere: `calls` are those that came, `reply` answers places of one of them."""

    def __init__(self):
        self.calls = []
        self.queues = []
        self.cancelled = []

    async def send(self, calls):
        number = len(self.calls)
        self.calls.append(calls)
        self.queues.append(asyncio.Queue())
        try:
            while (ready := await self.queues[number].get()) is not None:
                if isinstance(ready, Exception):
                    raise ready
                yield ready
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise

    @property
    def values(self):
        return [[call.rows[:, 0].tolist() for call in calls] for calls in self.calls]

    def give(self, number, ready):
        self.queues[number].put_nowait(ready)

    def finish(self, number, queue_rows=5, spent_s=0.0):
        """Double each value."""
        replies = [Reply(2 * call.rows, queue_rows, spent_s) for call in self.calls[number]]
        self.give(number, list(enumerate(replies)))
        self.give(number, None)


@pytest.fixture
def far():
    return Far()


@pytest.fixture
def make(far, clock):
    def make(**limits):
        return Gather(far.send, lambda error: Refused("unavailable", str(error)), GatherLimits(**limits), clock)

    return make


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def ask(gather, *values, timeout_s=None):
    return asyncio.ensure_future(gather.ask(rows(*values), timeout_s))


def refused(task):
    with pytest.raises(RefusedError) as caught:
        task.result()
    return caught.value.refused


def test_a_request_goes_at_once_while_little_is_under_way(make, far):
    async def scenario():
        gather = make(calls=2)
        tasks = []
        for value in (1, 2):
            tasks.append(ask(gather, value))
            await settle()
        assert far.values == [[[1]], [[2]]]
        for number in (0, 1):
            far.finish(number)
        assert [(await task).tolist() for task in tasks] == [[[2]], [[4]]]

    asyncio.run(scenario())


def test_what_arrives_in_one_turn_goes_as_one_call(make, far):
    async def scenario():
        gather = make()
        tasks = [ask(gather, 1), ask(gather, 2, 3)]
        await settle()
        assert far.values == [[[1], [2, 3]]]
        far.finish(0)
        assert [(await task).tolist() for task in tasks] == [[[2]], [[4], [6]]]

    asyncio.run(scenario())


def test_what_comes_while_calls_are_under_way_goes_together_when_one_returns(make, far):
    async def scenario():
        gather = make(calls=1)
        tasks = [ask(gather, 0)]
        await settle()
        for value in (1, 2, 3):
            tasks.append(ask(gather, value))
            await settle()
        assert (far.values, gather.waiting_rows) == ([[[0]]], 3)
        far.finish(0)
        await settle()
        assert far.values[1:] == [[[1], [2], [3]]]
        far.finish(1)
        await asyncio.gather(*tasks)
        assert (gather.calls, gather.waiting_rows) == (0, 0)

    asyncio.run(scenario())


def test_what_cannot_wait_for_a_return_goes_at_once_and_takes_the_rest_along(make, far, clock):
    async def scenario():
        gather = make(calls=1)
        first = ask(gather, 0)
        await settle()
        clock.now_s = 0.1  # a call takes about this long
        far.finish(0)
        await first
        held, patient = ask(gather, 1), None
        await settle()
        patient = ask(gather, 2, timeout_s=5.0)
        await settle()
        assert len(far.calls) == 2
        urgent = ask(gather, 3, timeout_s=0.09)
        await settle()
        assert far.values[2] == [[3], [2]]
        for number in (1, 2):
            far.finish(number)
        await asyncio.gather(held, patient, urgent)

    asyncio.run(scenario())


def test_each_call_carries_the_time_that_is_left(make, far, clock):
    async def scenario():
        gather = make(calls=1)
        first = ask(gather, 0)
        await settle()
        second, third = ask(gather, 1, timeout_s=3.0), ask(gather, 2)
        await settle()
        clock.now_s = 1.0
        far.finish(0, spent_s=1.0)
        await settle()
        assert [call.timeout_s for call in far.calls[1]] == [2.0, None]
        far.finish(1)
        await asyncio.gather(first, second, third)

    asyncio.run(scenario())


def test_work_that_expired_or_was_cancelled_is_not_sent(make, far, clock):
    async def scenario():
        gather = make(calls=1)
        first = ask(gather, 0)
        await settle()
        late, gone, good = ask(gather, 1, timeout_s=1.0), ask(gather, 2), ask(gather, 3)
        await settle()
        gone.cancel()
        await settle()
        assert gather.waiting_rows == 2
        clock.now_s = 2.0
        far.finish(0)
        await settle()
        assert far.values[1:] == [[[3]]]
        # Nobody asked the model, so it is not the model that is late.
        assert refused(late).reason == "overload"
        far.finish(1)
        await asyncio.gather(first, good)

    asyncio.run(scenario())


def test_a_refusal_of_one_neither_fails_nor_waits_for_the_others(make, far):
    async def scenario():
        gather = make()
        tasks = [ask(gather, value) for value in (1, 2)]
        await settle()
        far.give(0, [(1, Refused("overload", "full", 7))])
        await settle()
        assert refused(tasks[1]).detail == "full"
        assert (tasks[0].done(), gather.queue_rows) == (False, 7)
        far.give(0, [(0, Reply(rows(9), 0))])
        far.give(0, None)
        assert (await tasks[0]).tolist() == [[9]]

    asyncio.run(scenario())


def test_what_the_model_has_no_time_for_is_refused_here_for_a_moment(make, far, clock):
    async def scenario():
        gather = make(hint_s=0.010)
        first = ask(gather, 1, timeout_s=0.03)
        await settle()
        far.give(0, [(0, Refused("overload", "late", 7, wait_s=0.5))])
        far.give(0, None)
        await settle()
        assert refused(first).reason == "overload"
        again, patient = ask(gather, 2, timeout_s=0.5), ask(gather, 3, timeout_s=0.6)
        await settle()
        assert refused(again).queue_rows == 7
        assert far.values[1:] == [[[3]]]
        clock.now_s = 0.041
        later = ask(gather, 4, timeout_s=0.03)
        await settle()
        assert far.values[2:] == [[[4]]]
        for number in (1, 2):
            far.finish(number)
        await asyncio.gather(patient, later)

    asyncio.run(scenario())


async def tell(gather, far, **outlook):
    """A first answer, with what it says of the next row."""
    first = ask(gather, 1, timeout_s=0.2)
    await settle()
    far.give(0, [(0, Reply(rows(2), 0, spent_s=0.0, **outlook))])
    far.give(0, None)
    await first


def test_what_an_answer_says_of_the_next_row_is_heeded_before_any_refusal(make, far, clock):
    async def scenario():
        gather = make(hint_s=0.1)
        await tell(gather, far, next_s=0.050, step_s=0.020)
        hasty, patient = ask(gather, 2, timeout_s=0.040), ask(gather, 3, timeout_s=0.060)
        await settle()
        assert refused(hasty).reason == "overload"
        assert far.values[1:] == [[[3]]]
        assert [call.turned_away for calls in far.calls for call in calls] == [0, 1]
        far.finish(1)
        await patient

    asyncio.run(scenario())


def test_a_row_that_was_sent_is_ahead_of_the_next_one(make, far, clock):
    async def scenario():
        gather = make(hint_s=0.1)
        await tell(gather, far, next_s=0.020, step_s=0.020)
        second = ask(gather, 2, timeout_s=0.030)
        await settle()
        third = ask(gather, 3, timeout_s=0.030)
        await settle()
        assert refused(third).reason == "overload"
        assert far.values[1:] == [[[2]]]
        far.finish(1)
        await second

    asyncio.run(scenario())


def test_an_answer_ends_what_was_believed_of_the_model(make, far):
    async def scenario():
        gather = make(hint_s=10.0)
        tasks = [ask(gather, value, timeout_s=0.03) for value in (1, 2)]
        await settle()
        far.give(0, [(0, Refused("overload", "late", 7, wait_s=0.5))])
        far.give(0, [(1, Reply(rows(4), 0))])
        far.give(0, None)
        await asyncio.wait(tasks)
        third = ask(gather, 3, timeout_s=0.03)
        await settle()
        far.finish(1)
        assert (await third).tolist() == [[6]]

    asyncio.run(scenario())


def test_more_calls_go_where_replies_find_empty_queues_and_fewer_where_rows_wait(make, far):
    async def scenario():
        gather = make(calls=1, most_calls=3)
        for number in range(4):
            task = ask(gather, number)
            await settle()
            far.finish(number, queue_rows=0)
            await task
        tasks = []
        for value in range(5):
            tasks.append(ask(gather, value))
            await settle()
        assert gather.calls == 3
        for number in (4, 5, 6):
            far.finish(number, queue_rows=9)
        await settle()
        far.finish(7, queue_rows=9)
        await asyncio.gather(*tasks)
        for value in range(2):
            tasks.append(ask(gather, value))
            await settle()
        assert gather.calls == 1
        for task in tasks:
            task.cancel()
        await settle()

    asyncio.run(scenario())


def test_a_call_is_cancelled_once_nobody_waits_for_it(make, far):
    async def scenario():
        gather = make()
        tasks = [ask(gather, value) for value in (1, 2)]
        await settle()
        tasks[0].cancel()
        await settle()
        assert far.cancelled == []
        tasks[1].cancel()
        await settle()
        assert (far.cancelled, gather.calls) == ([0], 0)

    asyncio.run(scenario())


def test_a_model_that_never_answers_times_out_and_holds_no_call(far):
    async def scenario():
        gather = Gather(far.send, lambda error: Refused("unavailable", str(error)))
        task = ask(gather, 1, timeout_s=0.02)
        await asyncio.wait([task], timeout=1)
        assert refused(task).reason == "timeout"
        await settle()
        assert (far.cancelled, gather.calls) == ([0], 0)

    asyncio.run(scenario())


def test_an_error_becomes_the_refusal_of_all_that_are_not_answered(make, far):
    async def scenario():
        gather = make()
        tasks = [ask(gather, value) for value in (1, 2)]
        await settle()
        far.give(0, [(0, Reply(rows(2), 0))])
        far.give(0, RuntimeError("the replica died"))
        await asyncio.wait(tasks)
        assert tasks[0].result().tolist() == [[2]]
        assert refused(tasks[1]) == Refused("unavailable", "the replica died")

    asyncio.run(scenario())


def test_a_place_that_gets_no_answer_is_refused(make, far):
    async def scenario():
        gather = make()
        task = ask(gather, 1)
        await settle()
        far.give(0, None)
        await asyncio.wait([task], timeout=1)
        assert refused(task).reason == "unavailable"

    asyncio.run(scenario())


def test_calls_are_split_by_their_size(make, far):
    async def scenario():
        gather = make(call_bytes=16, most_calls=9)
        tasks = [ask(gather, 1, 2, 3, 4, 5, 6, 7, 8, 9), ask(gather, 10), ask(gather, 11)]
        await settle()
        assert far.values == [[[1, 2, 3, 4]], [[5, 6, 7, 8]], [[9], [10], [11]]]
        for number in range(3):
            far.finish(number)
        assert (await tasks[0])[:, 0].tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18]
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_request_sent_in_parts_fails_as_one_and_its_other_parts_are_let_go(make, far):
    async def scenario():
        gather = make(call_bytes=4)
        task = ask(gather, 1, 2)
        await settle()
        far.give(0, [(0, Refused("overload", "full"))])
        await settle()
        assert refused(task).detail == "full"
        assert far.cancelled == [1]
        far.give(0, None)
        await settle()

    asyncio.run(scenario())


def test_too_many_rows_are_refused_here(make, far):
    async def scenario():
        gather = make(calls=1, max_queue_rows=2)
        first = ask(gather, 0)
        await settle()
        waits, over = ask(gather, 1, 2), ask(gather, 3)
        await settle()
        assert refused(over).reason == "overload"
        for task in (first, waits):
            task.cancel()
        await settle()

    asyncio.run(scenario())


def test_the_time_on_the_way_is_not_the_models(make, far, clock):
    async def scenario():
        gather = make(calls=1)
        for number in range(40):
            task = ask(gather, number, timeout_s=9.0)
            await settle()
            clock.now_s += 0.5
            far.finish(number, spent_s=0.4)
            await task
        last = ask(gather, 1, timeout_s=1.0)
        await settle()
        assert far.calls[-1][0].timeout_s == pytest.approx(0.9, abs=0.01)
        far.finish(40)
        await last

    asyncio.run(scenario())


def test_however_long_the_way_was_the_model_has_half_of_the_time(make, far, clock):
    async def scenario():
        gather = make()
        first = ask(gather, 1, timeout_s=9.0)
        await settle()
        clock.now_s = 5.0
        far.finish(0)
        await first
        second = ask(gather, 1, timeout_s=1.0)
        await settle()
        assert far.calls[1][0].timeout_s == 0.5
        far.finish(1)
        await second

    asyncio.run(scenario())
