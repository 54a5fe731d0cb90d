"""The Batcher under a model that runs only when the test lets it."""

import asyncio
import threading

import numpy as np
import pytest

from apps.batching.batcher import Batcher, BatchLimits
from apps.refusal import RefusedError


def rows(*values):
    return np.array(values, dtype=np.int64)[:, None, None]


def double(batch):
    """Logits [B, 2] from rows [B, 1, 1]: the value and its double."""
    value = batch.reshape(len(batch), -1)[:, 0].astype(np.float32)
    return np.stack([value, 2 * value], axis=1)


class Gate:
    """A model that notes its batches and, while `hold`, runs each only after `release`."""

    def __init__(self, run=double):
        self.run = run
        self.batches = []
        self.permits = threading.Semaphore(0)
        self.hold = True

    def __call__(self, batch):
        self.batches.append(batch.reshape(len(batch), -1)[:, 0].tolist())
        if self.hold:
            assert self.permits.acquire(timeout=10)
        return self.run(batch)

    def release(self, count=1):
        for _ in range(count):
            self.permits.release()

    def release_all(self):
        self.hold = False
        self.release(100)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.release_all()


@pytest.fixture
def make(gate, clock):
    made = []

    def make(run=gate, **limits):
        made.append(Batcher(run, BatchLimits(**{"max_batch_rows": 4, "max_queue_rows": 16, **limits}), clock=clock))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def submit(batcher, values, timeout_s=None):
    return asyncio.ensure_future(batcher.submit(rows(*values), timeout_s))


def refused(task):
    with pytest.raises(RefusedError) as caught:
        task.result()
    return caught.value.refused


async def busy(batcher, gate):
    """A task that occupies the model."""
    task = submit(batcher, [0])
    await until(lambda: gate.batches)
    return task


def test_rows_get_their_own_logits(make):
    async def scenario():
        batcher = make(double)
        answers = await asyncio.gather(*(batcher.submit(rows(*values)) for values in ([1], [2, 3], [4, 5, 6])))
        assert [answer.tolist() for answer in answers] == [[[1, 2]], [[2, 4], [3, 6]], [[4, 8], [5, 10], [6, 12]]]

    asyncio.run(scenario())


def test_what_arrives_while_the_model_is_busy_runs_together_up_to_the_limit(make, gate):
    async def scenario():
        batcher = make()
        first = await busy(batcher, gate)
        tasks = [submit(batcher, [value]) for value in range(1, 7)]
        await asyncio.sleep(0)
        assert batcher.queue_rows == 6
        gate.release_all()
        await asyncio.gather(first, *tasks)
        assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]

    asyncio.run(scenario())


def test_the_first_request_waits_for_nobody(make):
    async def scenario():
        batcher = make(double)
        async with asyncio.timeout(1):
            await batcher.submit(rows(1))

    asyncio.run(scenario())


def test_the_most_urgent_deadline_runs_first(make, gate):
    async def scenario():
        batcher = make(max_batch_rows=1)
        first = await busy(batcher, gate)
        tasks = [submit(batcher, [1]), submit(batcher, [2], 9.0), submit(batcher, [3], 1.0), submit(batcher, [4], 5.0)]
        await asyncio.sleep(0)
        gate.release_all()
        await asyncio.gather(first, *tasks)
        assert gate.batches == [[0], [3], [4], [2], [1]]

    asyncio.run(scenario())


def test_expired_work_is_dropped_before_it_costs_anything(make, gate, clock):
    async def scenario():
        batcher = make()
        first = await busy(batcher, gate)
        late, good = submit(batcher, [1], 1.0), submit(batcher, [2], 9.0)
        await asyncio.sleep(0)
        clock.now_s += 2.0
        gate.release_all()
        await asyncio.gather(first, good)
        assert gate.batches == [[0], [2]]
        assert refused(late).reason == "timeout"
        assert batcher.queue_rows == 0

    asyncio.run(scenario())


def test_cancelled_work_is_dropped_and_leaves_the_queue_at_once(make, gate):
    async def scenario():
        batcher = make()
        first = await busy(batcher, gate)
        gone, good = submit(batcher, [1, 1, 1]), submit(batcher, [2])
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert batcher.queue_rows == 1
        gate.release_all()
        await asyncio.gather(first, good)
        assert gate.batches == [[0], [2]]

    asyncio.run(scenario())


def test_work_cancelled_while_it_runs_does_not_disturb_the_rest(make, gate):
    async def scenario():
        batcher = make()
        first = await busy(batcher, gate)
        first.cancel()
        second = submit(batcher, [2])
        gate.release_all()
        assert (await second).tolist() == [[2, 4]]

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once_and_says_how_full(make, gate):
    async def scenario():
        batcher = make(max_queue_rows=3)
        first = await busy(batcher, gate)
        waiting = submit(batcher, [1, 2])
        await asyncio.sleep(0)
        over = submit(batcher, [3, 4])
        await asyncio.wait([over], timeout=1)
        assert refused(over).reason == "overload"
        assert refused(over).queue_rows == 2
        fits = submit(batcher, [5])
        gate.release_all()
        await asyncio.gather(first, waiting, fits)

    asyncio.run(scenario())


def test_work_that_would_be_late_is_refused_by_the_learned_pace(make, gate):
    async def scenario():
        batcher = make()
        for size in (1, 2, 4):
            batcher._pace.observe(size, 1.0)
        first = await busy(batcher, gate)
        late, good = submit(batcher, [1], 1.5), submit(batcher, [2], 2.5)
        await asyncio.sleep(0)
        assert refused(late).reason == "overload"
        assert "1500 ms" in refused(late).detail
        # Its deadline is behind that of `good`, which runs before it: 1 s now, then both together.
        behind = submit(batcher, [3], 2.6)
        gate.release_all()
        await asyncio.gather(first, good, behind)

    asyncio.run(scenario())


def test_work_of_later_deadline_does_not_count_as_ahead(make, gate):
    async def scenario():
        batcher = make()
        batcher._pace.observe(4, 1.0)
        first = await busy(batcher, gate)
        patient = [submit(batcher, [value] * 4, 9.0) for value in (1, 2)]
        await asyncio.sleep(0)
        urgent = submit(batcher, [3], 2.5)
        gate.release_all()
        await asyncio.gather(first, urgent, *patient)
        assert gate.batches[1][0] == 3

    asyncio.run(scenario())


def test_an_idle_model_takes_what_it_believes_will_be_late(make):
    async def scenario():
        batcher = make(double)
        batcher._pace.observe(1, 30.0)
        await batcher.submit(rows(1), 1.0)
        assert batcher._pace.seconds(1) < 30.0

    asyncio.run(scenario())


def test_a_request_above_the_batch_limit_is_run_in_parts_and_answered_whole(make):
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return double(batch)

    async def scenario():
        batcher = make(run)
        answer = await batcher.submit(rows(*range(10)))
        assert answer[:, 0].tolist() == list(range(10))
        assert sizes == [4, 4, 2]

    asyncio.run(scenario())


def test_a_request_that_cannot_be_run_fails_alone(make, gate):
    def run(batch):
        if 13 in batch:
            raise ValueError("unlucky")
        return double(batch)

    async def scenario():
        batcher = make()
        gate.run = run
        first = await busy(batcher, gate)
        good, bad, other = submit(batcher, [1]), submit(batcher, [13]), submit(batcher, [2])
        gate.release_all()
        await asyncio.wait([first, good, bad, other])
        assert good.result().tolist() == [[1, 2]]
        assert other.result().tolist() == [[2, 4]]
        with pytest.raises(ValueError, match="unlucky"):
            bad.result()
        assert (await batcher.submit(rows(5))).tolist() == [[5, 10]]

    asyncio.run(scenario())


@pytest.mark.parametrize("logits", [np.zeros((3, 2)), np.zeros(2), np.zeros((0, 2))])
def test_a_model_that_gives_another_number_of_rows_is_not_believed(make, logits):
    async def scenario():
        batcher = make(lambda batch: logits)
        with pytest.raises(ValueError, match="for 2 rows"):
            await batcher.submit(rows(1, 2))

    asyncio.run(scenario())


def test_a_closed_batcher_refuses(make):
    async def scenario():
        batcher = make(double)
        batcher.close()
        with pytest.raises(RefusedError, match="being stopped"):
            await batcher.submit(rows(1))

    asyncio.run(scenario())


def test_busy_time_is_that_of_the_current_call(make, gate, clock):
    async def scenario():
        batcher = make()
        assert batcher.busy_s == 0.0
        first = await busy(batcher, gate)
        clock.now_s += 7.0
        assert batcher.busy_s == 7.0
        gate.release_all()
        await first
        assert batcher.busy_s == 0.0

    asyncio.run(scenario())


def test_warm_up_runs_every_size_and_learns_it(make):
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return double(batch)

    batcher = make(run)
    batcher.warm_up(np.zeros((1, 1), np.int64))
    assert sorted(set(sizes)) == [1, 2, 4]
    assert batcher._pace.seconds(4) > 0


def test_many_requests_at_once_each_get_their_own_answer(make):
    async def scenario():
        batcher = make(double, max_queue_rows=1_000)
        answers = await asyncio.gather(*(batcher.submit(rows(*[i] * (1 + i % 5))) for i in range(200)))
        for i, answer in enumerate(answers):
            assert answer.tolist() == [[i, 2 * i]] * (1 + i % 5)
        assert batcher.queue_rows == 0

    asyncio.run(scenario())


def test_work_whose_deadline_passes_while_it_runs_is_refused_then(make, gate):
    async def scenario():
        batcher = Batcher(gate, BatchLimits(4, 16))
        gate.hold = True
        late = submit(batcher, [1], 0.05)
        await asyncio.wait([late], timeout=1)
        assert refused(late).reason == "timeout"
        assert batcher.shed["overran"] == 1
        gate.release_all()
        assert (await batcher.submit(rows(2))).tolist() == [[2, 4]]
        batcher.close()

    asyncio.run(scenario())


def test_a_call_may_overrun_for_a_caller_who_keeps_the_time(make, gate):
    async def scenario():
        batcher = Batcher(gate, BatchLimits(4, 16))
        gate.hold = True
        job = batcher.enqueue(rows(1), 0.02, may_overrun=True)
        await asyncio.sleep(0.05)
        assert not job.future.done()
        gate.release_all()
        assert (await job.future).tolist() == [[1, 2]]
        batcher.close()

    asyncio.run(scenario())


def test_the_outlook_is_what_one_more_row_takes_and_the_next_one_after_it(gate, clock):
    async def scenario():
        batcher = Batcher(gate, BatchLimits(1, 16), clock=clock)
        batcher._pace.observe(1, 0.020)
        assert batcher.outlook() == pytest.approx((0.020, 0.020))
        gate.hold = True
        running = batcher.enqueue(rows(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.now_s += 0.005
        waiting = batcher.enqueue(rows(2))
        assert batcher.outlook() == pytest.approx((0.055, 0.020))
        gate.release_all()
        await asyncio.gather(running.future, waiting.future)
        batcher.close()

    asyncio.run(scenario())


def test_work_whose_deadline_passes_while_it_waits_is_refused_then(gate):
    async def scenario():
        batcher = Batcher(gate, BatchLimits(4, 16))
        first = await busy(batcher, gate)
        late = submit(batcher, [1], 0.03)
        await asyncio.wait([late], timeout=1)
        assert refused(late).reason == "timeout"
        assert (batcher.shed["expired"], batcher.queue_rows) == (1, 0)
        gate.release_all()
        await first
        batcher.close()

    asyncio.run(scenario())


def test_an_idle_model_tries_the_hopeless_now_and_then_and_refuses_it_between(make, clock):
    async def scenario():
        batcher = make(double)

        def pace_is(seconds):
            for _ in range(5):
                batcher._pace.observe(1, seconds)

        pace_is(30.0)
        await batcher.submit(rows(1), 1.0)
        pace_is(30.0)
        with pytest.raises(RefusedError, match="30000 ms of 1000 ms") as caught:
            await batcher.submit(rows(1), 1.0)
        assert caught.value.refused.wait_s == pytest.approx(29.0)
        clock.now_s += 1.0
        await batcher.submit(rows(1), 1.0)

    asyncio.run(scenario())


def test_a_batch_is_padded_to_a_preferred_size_and_the_padding_is_cut_off(make, gate):
    async def scenario():
        batcher = make(sizes=(1, 4))
        first = await busy(batcher, gate)
        tasks = [submit(batcher, [1]), submit(batcher, [2, 3])]
        gate.release_all()
        answers = [answer.tolist() for answer in await asyncio.gather(first, *tasks)]
        assert answers == [[[0, 0]], [[1, 2]], [[2, 4], [3, 6]]]
        assert gate.batches == [[0], [1, 2, 3, 3]]

    asyncio.run(scenario())


def test_a_preferred_size_holds_for_warm_up_too(make):
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return double(batch)

    make(run, sizes=(2, 4)).warm_up(np.zeros((1, 1), np.int64))
    assert set(sizes) == {2, 4}


def test_each_call_is_told_with_its_waits(make, gate, clock):
    async def scenario():
        records = []
        batcher = make(sizes=(1, 4))
        batcher.on_batch = records.append
        first = await busy(batcher, gate)
        tasks = [submit(batcher, [1]), submit(batcher, [2])]
        await asyncio.sleep(0)
        clock.now_s += 0.5
        gate.release_all()
        await asyncio.gather(first, *tasks)
        await until(lambda: len(records) == 2)
        record = records[1]
        assert (record.rows, record.padded_rows, record.jobs, record.fill) == (2, 4, 2, 0.5)
        assert record.queue_s == (0.5, 0.5)
        assert record.model_s > 0
        assert record.batch_s > 0

    asyncio.run(scenario())


def test_a_record_that_cannot_be_taken_does_not_stop_the_model(make):
    def fail(record):
        raise ValueError("no meter")

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        batcher = make(double)
        batcher.on_batch = fail
        for _ in range(3):
            assert (await batcher.submit(rows(1))).tolist() == [[1, 2]]

    asyncio.run(scenario())


def test_what_gets_no_answer_is_counted_by_reason(make, gate, clock):
    async def scenario():
        told = []
        batcher = make(max_queue_rows=3)
        batcher.on_shed = told.append
        for size in (1, 2, 4) * 5:
            batcher._pace.observe(size, 1.0)
        first = await busy(batcher, gate)
        late = submit(batcher, [1], 0.5)
        gone, hopeless, good = submit(batcher, [2]), submit(batcher, [3], 2.5), submit(batcher, [4], 3.9)
        await asyncio.sleep(0)
        full = submit(batcher, [5])
        await asyncio.sleep(0)
        gone.cancel()
        clock.now_s = 2.0
        gate.release_all()
        await asyncio.wait([first, late, hopeless, good, full, gone])
        assert refused(full).reason == refused(late).reason == "overload"
        assert told[:3] == ["late", "full", "cancelled"]
        assert batcher.shed["given_up"] == 1
        assert refused(hopeless).reason == "overload"

    asyncio.run(scenario())


def test_work_that_waits_when_the_batcher_closes_is_refused(make, gate):
    async def scenario():
        batcher = make()
        first = await busy(batcher, gate)
        waiting = submit(batcher, [1])
        await asyncio.sleep(0)
        batcher.close()
        gate.release_all()
        await asyncio.wait([first, waiting])
        assert first.result().tolist() == [[0, 0]]
        assert refused(waiting).reason == "unavailable"

    asyncio.run(scenario())


def test_logits_that_are_the_batch_itself_survive_the_next_batch(make):
    async def scenario():
        batcher = make(lambda batch: batch.reshape(len(batch), -1))
        first = await asyncio.gather(*(batcher.submit(rows(value)) for value in (1, 2)))
        await asyncio.gather(*(batcher.submit(rows(value)) for value in (3, 4)))
        assert [answer.tolist() for answer in first] == [[[1]], [[2]]]

    asyncio.run(scenario())


def test_an_idle_model_takes_what_its_fastest_recent_call_would_fit(make, clock):
    async def scenario():
        batcher = make(double)

        def pace_is(*seconds):
            for each in seconds:
                batcher._pace.observe(1, each)

        # Twice in a row, well within the time after which an idle model would try anyway.
        for _ in range(2):
            pace_is(1.0, 3.0, 3.0, 3.0, 3.0)
            await batcher.submit(rows(1), 2.0)
        pace_is(3.0, 3.0, 3.0, 3.0, 3.0)
        with pytest.raises(RefusedError, match="3000 ms of 2000 ms"):
            await batcher.submit(rows(1), 2.0)

    asyncio.run(scenario())
