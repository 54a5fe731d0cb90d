"""Who answers which row and why, with backends that say what the test wants."""

import asyncio
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from apps.backends.backend import GuardedBackend
from apps.backends.breaker import Breaker
from apps.observe.tracing import NoTracing
from apps.refusal import Refused, RefusedError
from apps.router import (
    Arm,
    Ask,
    Patience,
    Router,
    UnknownReleaseError,
    choose,
    confidence,
    escalated_rows,
    sticky_draw,
)
from training.encoding import softmax

PATIENCE = Patience(deadline_s=0.040, reserve_s=0.010, insist_s=5.0)
SURE, UNSURE = [9.0, 0.0], [0.1, 0.0]


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class Fake:
    """Answers each row with itself plus `offset`, or refuses; notes what it was asked."""

    def __init__(self, offset=0.0, refuse=None, clock=None, takes_s=0.0):
        self.offset = offset
        self.refuse = refuse
        self.clock = clock
        self.takes_s = takes_s
        self.calls = []

    async def infer(self, rows, timeout_s):
        self.calls.append((rows.tolist(), timeout_s))
        if self.clock is not None:
            self.clock.now_s += self.takes_s
        if self.refuse is not None:
            raise RefusedError(Refused(self.refuse, "as the test says"))
        return rows.astype(np.float32) + np.float32(self.offset)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def student():
    return Fake()


@pytest.fixture
def teacher():
    return Fake(offset=100.0)


@pytest.fixture
def make(student, teacher, clock):
    def make(threshold=0.9, temperature=1.0):
        breaker = Breaker(clock=clock)
        arm = Arm(3, 1.0, temperature, threshold, student, GuardedBackend(teacher, breaker, fair_s=0.015))
        return Router([arm], PATIENCE, clock=clock)

    return make


def answer(router, rows=(SURE, UNSURE), **wishes):
    return asyncio.run(router.answer(Ask(np.array(rows), **wishes)))


def routes(answered):
    return [(route.variant, route.reason) for route in answered.routes]


CONFIDENT, ESCALATED = ("student", "confident"), ("teacher", "escalated")


def test_only_the_rows_the_student_is_unsure_of_go_to_the_teacher(make, teacher):
    answered = answer(make(), [SURE, UNSURE, SURE, UNSURE])
    assert routes(answered) == [CONFIDENT, ESCALATED, CONFIDENT, ESCALATED]
    assert answered.logits[:, 0].tolist() == pytest.approx([9.0, 100.1, 9.0, 100.1])
    assert teacher.calls[0][0] == [UNSURE, UNSURE]
    assert answered.release == 3


def test_a_sure_student_leaves_the_teacher_alone(make, teacher):
    assert routes(answer(make(), [SURE, SURE])) == [CONFIDENT] * 2
    assert teacher.calls == []


def test_the_temperature_decides_how_sure_the_student_is(make):
    assert routes(answer(make(temperature=9.0), [SURE])) == [ESCALATED]
    assert routes(answer(make(temperature=1.0), [SURE])) == [CONFIDENT]


def test_the_teacher_gets_the_time_that_is_left_less_the_reserve(make, student, teacher, clock):
    student.clock, student.takes_s = clock, 0.012
    answer(make(), [UNSURE])
    assert teacher.calls[0][1] == pytest.approx(0.040 - 0.010 - 0.012)
    answer(make(), [UNSURE], deadline_s=0.5)
    assert teacher.calls[1][1] == pytest.approx(0.5 - 0.010 - 0.012)


def test_a_slow_student_leaves_no_time_for_the_teacher(make, student, teacher, clock):
    student.clock, student.takes_s = clock, 0.030
    assert routes(answer(make())) == [CONFIDENT, ("student", "fallback:timeout")]
    assert teacher.calls == []


@pytest.mark.parametrize("reason", ["overload", "timeout", "unavailable"])
def test_the_student_stands_in_for_a_teacher_that_refuses(make, teacher, reason):
    teacher.refuse = reason
    answered = answer(make())
    assert routes(answered) == [CONFIDENT, ("student", f"fallback:{reason}")]
    assert answered.logits.tolist() == pytest.approx(np.array([SURE, UNSURE]))


@pytest.mark.parametrize("reason", ["overload", "timeout", "unavailable"])
@pytest.mark.parametrize("wishes", [{"allow_fallback": False}, {"mode": "teacher"}])
@pytest.mark.parametrize("threshold", [0.9, None])
def test_who_wants_no_fallback_gets_none(make, teacher, reason, wishes, threshold):
    teacher.refuse = reason
    with pytest.raises(RefusedError) as caught:
        answer(make(threshold), **wishes)
    assert caught.value.refused.reason == reason


def test_without_fallback_a_sure_student_still_answers_and_the_teacher_gets_longer(make, teacher):
    assert routes(answer(make(), allow_fallback=False)) == [CONFIDENT, ESCALATED]
    assert teacher.calls[0][1] == pytest.approx(5.0)
    answer(make(), allow_fallback=False, deadline_s=0.2)
    assert teacher.calls[1][1] == pytest.approx(0.2)


def test_teacher_mode_asks_the_teacher_for_every_row(make, student, teacher):
    answered = answer(make(), mode="teacher")
    assert routes(answered) == [("teacher", "pinned")] * 2
    assert answered.logits[0, 0] == 109.0
    assert student.calls == []
    assert teacher.calls[0][1] == 5.0


def test_student_mode_asks_the_student_for_every_row(make, teacher):
    assert routes(answer(make(), mode="student")) == [("student", "pinned")] * 2
    assert teacher.calls == []


@pytest.mark.parametrize(
    ("wishes", "waited_s"),
    [
        ({}, 5.0),
        ({"deadline_s": 0.02}, 5.0),
        ({"deadline_s": 9.0}, 9.0),
        ({"mode": "student", "deadline_s": 0.02}, 5.0),
        ({"mode": "student", "allow_fallback": False}, 5.0),
        ({"mode": "student", "allow_fallback": False, "deadline_s": 0.02}, 0.02),
    ],
)
@pytest.mark.parametrize("threshold", [0.9, None])
def test_a_student_is_waited_for_beyond_the_deadline_but_not_for_ever(
    make, student, teacher, wishes, waited_s, threshold
):
    teacher.refuse = "unavailable"
    answer(make(threshold), [UNSURE], **wishes)
    assert [timeout_s for _, timeout_s in student.calls] == [waited_s]


def test_without_fallback_a_student_is_waited_for_no_longer_than_the_deadline(make, student):
    answer(make(), [SURE], allow_fallback=False, deadline_s=0.02)
    assert student.calls[0][1] == 0.02


def test_without_a_threshold_the_teacher_answers_everything(make, student):
    answered = answer(make(threshold=None))
    assert routes(answered) == [ESCALATED] * 2
    assert student.calls == []


def test_without_a_threshold_the_student_still_stands_in(make, teacher):
    teacher.refuse = "timeout"
    assert routes(answer(make(threshold=None))) == [("student", "fallback:timeout")] * 2


def test_the_teacher_stands_in_for_a_student_that_is_gone(make, student):
    student.refuse = "unavailable"
    assert routes(answer(make())) == [("teacher", "fallback:unavailable")] * 2


def test_a_full_student_does_not_pass_its_load_on(make, student, teacher):
    student.refuse = "overload"
    with pytest.raises(RefusedError):
        answer(make())
    assert teacher.calls == []


def test_a_teacher_that_keeps_failing_is_left_alone_for_a_while(make, teacher, clock):
    teacher.refuse = "timeout"
    router = make()
    for _ in range(10):
        assert routes(answer(router, [UNSURE])) == [("student", "fallback:timeout")]
    assert len(teacher.calls) == 3
    clock.now_s += 1.0
    teacher.refuse = None
    assert routes(answer(router, [UNSURE])) == [ESCALATED]
    assert routes(answer(router, [UNSURE])) == [ESCALATED]


def test_a_refusal_for_load_does_not_stop_the_asking(make, teacher):
    teacher.refuse = "overload"
    router = make()
    for _ in range(10):
        answer(router, [UNSURE])
    assert len(teacher.calls) == 10


def test_a_client_with_a_hopeless_deadline_does_not_take_the_teacher_from_the_others(make, teacher):
    router = make()
    teacher.refuse = "timeout"
    for _ in range(10):
        answer(router, [UNSURE], deadline_s=0.011)
    teacher.refuse = None
    assert routes(answer(router, [UNSURE])) == [ESCALATED]


def test_who_insists_on_the_teacher_asks_it_though_the_breaker_is_open(make, teacher):
    teacher.refuse = "timeout"
    router = make()
    for _ in range(3):
        answer(router, [UNSURE])
    teacher.refuse = None
    assert routes(answer(router, [UNSURE], mode="teacher")) == [("teacher", "pinned")]
    assert routes(answer(router, [UNSURE])) == [ESCALATED]


def test_a_cancelled_probe_lets_the_next_request_probe(clock):
    async def scenario():
        class Slow:
            async def infer(self, rows, timeout_s):
                await asyncio.sleep(60)

        breaker = Breaker(failures=1, open_s=1.0, clock=clock)
        breaker.failed("timeout")
        clock.now_s = 1.0
        probe = asyncio.ensure_future(GuardedBackend(Slow(), breaker, 0.0).infer(np.zeros((1, 2)), None))
        await asyncio.sleep(0)
        assert not breaker.admit()
        probe.cancel()
        await asyncio.wait([probe])
        assert breaker.admit()

    asyncio.run(scenario())


def test_probabilities_use_the_temperature_for_the_students_rows_only(make):
    answered = answer(make(temperature=2.0), [SURE, UNSURE])
    assert routes(answered) == [CONFIDENT, ESCALATED]
    confident, escalated = answered.probabilities()
    assert confident[0] == pytest.approx(1 / (1 + np.exp(-9.0 / 2)), rel=1e-5)
    assert escalated[0] == pytest.approx(1 / (1 + np.exp(-0.1)), rel=1e-5)
    assert answered.probabilities().dtype == np.float32


def test_rows_exactly_at_the_threshold_are_confident_and_those_without_a_number_are_not():
    assert escalated_rows(np.array([0.9, 0.8999, np.nan, 1.0]), 0.9).tolist() == [False, True, True, False]


def arms(*weights):
    return [Arm(number, weight, 1.0, 0.9, Fake(), None) for number, weight in enumerate(weights, start=1)]


def test_the_split_follows_the_weights():
    split = arms(3.0, 1.0)
    assert [choose(split, draw).number for draw in (0.0, 0.7499, 0.75, 0.9999)] == [1, 1, 2, 2]
    counts = Counter(choose(split, sticky_draw(f"user-{i}")).number for i in range(4_000))
    assert counts[1] / 4_000 == pytest.approx(0.75, abs=0.03)


def test_a_key_always_gets_the_same_release_and_no_key_a_drawn_one():
    draws = iter([0.1, 0.9])
    router = Router(arms(1.0, 1.0), PATIENCE, draw=lambda: next(draws))
    ask = Ask(np.zeros((1, 2)))
    assert [router.arm(ask).number for _ in range(2)] == [1, 2]
    keyed = {router.arm(replace(ask, key="ada")).number for _ in range(20)}
    assert len(keyed) == 1


def test_the_draw_of_a_key_is_the_same_on_every_machine():
    assert sticky_draw("ada") == 0xFDEE430D40BD / 2**48
    assert 0 <= sticky_draw("\ud800") < 1


def test_a_pinned_release_overrides_the_key_and_must_be_served():
    router = Router(arms(1.0, 1.0), PATIENCE)
    assert {router.arm(Ask(np.zeros((1, 2)), key=str(i), release=2)).number for i in range(20)} == {2}
    with pytest.raises(UnknownReleaseError, match="served are 1, 2"):
        router.arm(Ask(np.zeros((1, 2)), release=7))


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_confidence_is_the_largest_probability_however_many_rows(rows):
    logits = np.random.default_rng(rows).normal(0, 8, (rows, 10)).astype(np.float32)
    np.testing.assert_allclose(confidence(logits, 1.7), softmax(logits, 1.7).max(axis=-1), rtol=1e-12)


@pytest.mark.parametrize("row", [[np.nan, 1, 2], [1, np.nan, 2], [np.inf, np.inf, 0], [-np.inf, -np.inf, -np.inf]])
def test_logits_that_are_no_numbers_are_no_confidence(row):
    with np.errstate(invalid="ignore"):
        assert escalated_rows(confidence(np.array([row], np.float32), 1.0), 0.0).all()


def test_a_traced_request_shows_whom_it_asked(student, teacher):
    class Spans(NoTracing):
        def __init__(self):
            self.steps = []

        def step(self, name, **attributes):
            self.steps.append((name, attributes))
            return super().step(name)

    spans = Spans()
    arm = Arm(3, 1.0, 1.0, 0.9, student, GuardedBackend(teacher, Breaker(), fair_s=0.015))
    answer(Router([arm], PATIENCE, spans))
    assert spans.steps == [("student", {"rows": 2}), ("teacher", {"rows": 1})]
