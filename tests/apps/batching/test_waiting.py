"""What runs together next, decided at a time and a pace that the test sets."""

import asyncio

import numpy as np
import pytest

from apps.batching.pace import Pace
from apps.batching.waiting import BatchLimits, Job, Waiting


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def queue(loop):
    """Waiting, with `add(name, left_s, rows)` at time 0 and `take` in names."""

    class Queue:
        def __init__(self):
            self.pace = Pace()
            self.jobs = {}

        def limits(self, **limits):
            self.waiting = Waiting(BatchLimits(**{"max_batch_rows": 8, **limits}), self.pace)
            return self

        def runs(self, fixed_s, row_s, most=8):
            for rows in (1, 2, 4, 8, 16, 32):
                if rows <= most:
                    self.pace.observe(rows, fixed_s + rows * row_s)

        def add(self, name, left_s=None, rows=1, probe=False):
            due = 10.0 if left_s is None else left_s
            job = Job(np.zeros((rows, 1)), 0.0, due, left_s, loop.create_future(), probe)
            self.jobs[name] = job
            self.waiting.add(job)

        def take(self, now=0.0):
            formed = self.waiting.take(now)
            names = {id(job): name for name, job in self.jobs.items()}
            return tuple(
                "".join(names[id(job)] for job in group) for group in (formed.jobs, formed.expired, formed.given_up)
            )

    return Queue().limits()


def test_a_batch_ends_before_it_would_outlast_the_most_urgent_deadline(queue):
    queue.runs(0.005, 0.010)
    for name in "abcdef":
        queue.add(name, 0.040)
    assert queue.take() == ("abc", "", "")
    assert queue.waiting.rows == 3


def test_a_later_deadline_does_not_stretch_the_batch(queue):
    queue.runs(0.005, 0.010)
    queue.add("b", 5.0)
    queue.add("a", 0.026)
    queue.add("c", 5.0)
    assert queue.take() == ("ab", "", "")


def test_work_without_a_deadline_fills_batches_and_is_never_dropped(queue):
    queue.runs(0.5, 1.0)
    for name in "abc":
        queue.add(name)
    assert queue.take(now=60.0) == ("abc", "", "")


def test_overdue_patient_work_goes_first_and_urgent_work_still_bounds_the_batch(queue):
    queue.runs(0.005, 0.010)
    queue.add("p")
    for name in "abc":
        queue.add(name, 20.030)
    assert queue.take(now=20.0) == ("pa", "", "")


def test_expired_work_and_work_that_cannot_be_in_time_are_told_apart(queue):
    queue.runs(0.050, 0.001)
    queue.add("x", 1.0)
    queue.add("h", 2.04)
    queue.add("a", 3.0)
    assert queue.take(now=2.0) == ("a", "x", "h")
    assert queue.waiting.rows == 0


def test_a_probe_runs_although_it_seems_hopeless(queue):
    queue.runs(0.050, 0.001)
    queue.add("p", 0.010, probe=True)
    assert queue.take() == ("p", "", "")


def test_where_a_large_batch_does_no_more_a_second_it_is_not_waited_for(queue):
    queue.runs(0.0, 0.030)
    for name in "abc":
        queue.add(name)
    assert queue.take() == ("a", "", "")


def test_a_request_larger_than_a_batch_runs_alone(queue):
    queue.runs(0.0, 0.001)
    queue.add("b", 0.9, rows=20)
    queue.add("a", 1.0)
    assert queue.take() == ("b", "", "")
    assert queue.take() == ("a", "", "")


def test_a_preferred_size_must_be_in_time_as_a_whole(queue):
    queue.limits(sizes=(1, 4, 8))
    queue.runs(0.005, 0.010)
    for name in "abcdef":
        queue.add(name, 0.060)
    # Five rows would be padded to eight, which take 85 ms.
    assert queue.take() == ("abcd", "", "")


@pytest.mark.parametrize("sizes", [(4, 1, 8), (1, 4), (0, 8), (1, 1, 8)])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(ValueError, match="give them ascending, the last one as max_batch_rows"):
        BatchLimits(max_batch_rows=8, sizes=sizes)


def test_a_deadline_that_would_cost_the_others_theirs_is_given_up(queue):
    # A call takes 101 to 108 ms whatever its size: the first has time for a batch of one, the others only if they
    # run now.
    queue.runs(0.100, 0.001)
    queue.add("h", 0.1015)
    for name in "abcdef":
        queue.add(name, 0.150)
    assert queue.take() == ("abcdef", "", "h")


def test_nobody_is_given_up_where_the_others_can_wait(queue):
    queue.runs(0.100, 0.001)
    queue.add("h", 0.1015)
    for name in "abcdef":
        queue.add(name, 0.400)
    assert queue.take() == ("h", "", "")


def test_nobody_is_given_up_where_larger_batches_are_not_faster(queue):
    queue.runs(0.0, 0.020)
    queue.add("h", 0.025)
    for name in "abcdef":
        queue.add(name, 0.060)
    assert queue.take() == ("h", "", "")


def test_cancelled_work_leaves_at_once_and_only_once(queue):
    for name in "abc":
        queue.add(name, 1.0, rows=2)
    assert queue.waiting.remove(queue.jobs["b"])
    assert not queue.waiting.remove(queue.jobs["b"])
    assert queue.waiting.rows == 4
    assert queue.take() == ("ac", "", "")
    assert not queue.waiting.remove(queue.jobs["a"])


def test_rows_before_a_deadline_are_those_that_run_earlier(queue):
    for name, left_s in zip("abcd", (3.0, 1.0, 2.0, 1.0), strict=True):
        queue.add(name, left_s, rows=2)
    assert [queue.waiting.rows_before(due) for due in (0.5, 1.0, 2.5, 9.0)] == [0, 4, 6, 8]


def test_what_expires_is_taken_out(queue):
    queue.add("a", 1.0)
    queue.add("p")
    queue.add("b", 3.0)
    assert queue.waiting.expire(2.0) == [queue.jobs["a"]]
    assert queue.waiting.next_expiry() == 3.0
    assert queue.waiting.rows == 2


def goodput(queue, arrivals_s, left_s, call_s):
    """How many of the arrivals are answered in time by a model that takes batch after batch of `call_s(rows, now)`."""
    done, now, pending = 0, 0.0, list(arrivals_s)
    while pending or queue.waiting.rows:
        while pending and pending[0] <= now:
            queue.add(f"{pending[0]}", pending.pop(0) + left_s)
        formed = queue.waiting.take(now)
        if formed.jobs:
            now += call_s(len(formed.jobs), now)
            done += sum(job.expires >= now for job in formed.jobs)
        elif pending:
            now = max(now, pending[0])
    return done


def test_a_hiccup_at_full_load_is_recovered_from(queue):
    """Without giving up anybody, batches stay as small as the late heads of the queue allow: half are answered."""
    queue.limits(max_batch_rows=32)
    queue.runs(0.100, 0.001, most=32)
    arrivals_s = [number / 180 for number in range(1800)]

    def call_s(rows, now):
        held_up = 3.0 <= now < 3.1
        return 0.100 + rows * 0.001 + (0.150 if held_up else 0.0)

    assert goodput(queue, arrivals_s, 0.260, call_s) > 0.9 * len(arrivals_s)


def test_before_the_model_stands_idle_it_runs_what_its_fastest_recent_call_would_fit(queue):
    for seconds in (0.020, 0.030, 0.030):
        queue.pace.observe(1, seconds)
    queue.add("a", 0.019)
    queue.add("b", 0.025)
    assert queue.take() == ("b", "", "a")


def test_what_not_even_that_would_fit_is_given_up(queue):
    for seconds in (0.020, 0.030, 0.030):
        queue.pace.observe(1, seconds)
    queue.add("a", 0.019)
    assert queue.take() == ("", "", "a")
