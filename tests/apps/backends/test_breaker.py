import pytest

from apps.backends.breaker import Breaker


@pytest.fixture
def breaker(clock):
    return Breaker(failures=3, open_s=2.0, clock=clock)


def fail(breaker, times, reason="timeout"):
    for _ in range(times):
        assert breaker.admit()
        breaker.failed(reason)


def test_it_stays_closed_below_the_limit(breaker):
    fail(breaker, 2)
    assert breaker.state == "closed"
    assert breaker.admit()


def test_failures_in_a_row_open_it_and_its_reason_is_kept(breaker):
    fail(breaker, 3, "unavailable")
    assert breaker.state == "open"
    assert not breaker.admit()
    assert breaker.last_reason == "unavailable"


def test_a_success_between_failures_keeps_it_closed(breaker):
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_half_open_lets_exactly_one_through(breaker, clock):
    fail(breaker, 3)
    clock.now_s = 2.0
    assert breaker.state == "half-open"
    assert [breaker.admit() for _ in range(3)] == [True, False, False]


def test_a_probe_that_succeeds_closes_it(breaker, clock):
    fail(breaker, 3)
    clock.now_s = 2.0
    breaker.admit()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.admit()


def test_a_probe_that_fails_opens_it_again_for_the_whole_time(breaker, clock):
    fail(breaker, 3)
    clock.now_s = 2.0
    breaker.admit()
    breaker.failed("timeout")
    clock.now_s = 3.9
    assert not breaker.admit()
    clock.now_s = 4.0
    assert breaker.admit()


def test_a_probe_without_result_makes_room_for_the_next(breaker, clock):
    fail(breaker, 3)
    clock.now_s = 2.0
    breaker.admit()
    breaker.inconclusive()
    assert breaker.state == "half-open"
    assert breaker.admit()


def test_each_new_state_is_told_once(clock):
    told = []
    breaker = Breaker(failures=3, open_s=2.0, clock=clock, on_change=told.append)
    breaker.succeeded()
    clock.now_s = 1.0
    fail(breaker, 3)
    breaker.failed("timeout")
    clock.now_s = 3.0
    breaker.admit()
    breaker.failed("timeout")
    clock.now_s = 5.0
    breaker.admit()
    breaker.inconclusive()
    breaker.admit()
    breaker.succeeded()
    assert told == ["open", "half-open", "open", "half-open", "closed"]


def test_it_says_when_to_ask_again(breaker, clock):
    assert breaker.retry_s == 0.0
    fail(breaker, 3)
    clock.now_s = 0.5
    assert breaker.retry_s == 1.5
    clock.now_s = 9.0
    assert breaker.retry_s == 0.0


def test_timeouts_count_only_once_nothing_has_come_for_a_while(breaker, clock):
    breaker.succeeded()
    clock.now_s = 0.1
    fail(breaker, 9, "timeout")
    assert breaker.state == "closed"
    clock.now_s = 0.6
    fail(breaker, 1, "timeout")
    assert breaker.state == "open"


def test_a_model_that_is_gone_is_believed_at_once(breaker):
    breaker.succeeded()
    fail(breaker, 3, "unavailable")
    assert breaker.state == "open"
