import math

import pytest

from loadtests.summary import Judged
from loadtests.timeline import Window, seconds_until_calm, timeline, violations


def answered(at_s: float, latency_ms: float, reason: str = "confident", correct: int = 1) -> Judged:
    variant = "teacher" if reason == "escalated" else "student"
    return Judged(at_s, latency_ms, variant=variant, reason=reason, release="1", rows=1, correct=correct)


def shed(at_s: float) -> Judged:
    return Judged(at_s, math.inf, "HTTP 503")


def test_windows_count_what_was_due_in_them() -> None:
    run = [answered(0.1, 10), answered(0.9, 60), shed(0.5), answered(2.5, 20, "escalated", correct=0)]
    first, second = timeline(run, duration_s=3, objective_ms=50)
    assert (first.start_s, first.requests, first.good, first.late, first.failed) == (0, 3, 1, 1, 1)
    assert (first.p50_ms, first.p95_ms) == (60, math.inf)
    assert first.routes == {"student: confident": 2, "failed": 1}
    assert first.accuracy == 1.0
    assert (second.start_s, second.goodput, second.accuracy) == (2, 1.0, 0.0)


def test_window_without_an_answer_has_no_accuracy() -> None:
    (window,) = timeline([shed(0.2)], duration_s=1, objective_ms=50)
    assert (window.accuracy, window.goodput) == (None, 0.0)


def test_long_run_has_wider_windows() -> None:
    windows = timeline([answered(at_s, 10) for at_s in range(3600)], duration_s=3600, objective_ms=50)
    assert len(windows) == 180
    assert windows[0].width_s == 20 and windows[0].goodput == 1.0


def test_late_failed_and_shed_requests_are_violations() -> None:
    assert violations([answered(0, 50), answered(0, 50.1), shed(0)], objective_ms=50) == 2


CALM = ("student: confident", "teacher: escalated")


def second(start_s: float, *reasons: str) -> Window:
    return timeline([answered(start_s, 10, reason) for reason in reasons], start_s + 1, 50)[0]


def test_routing_is_normal_from_the_end_of_the_fallbacks() -> None:
    calm, troubled = ("confident", "escalated"), ("confident", "fallback:overload")
    run = [second(58, *troubled), *(second(at, *troubled) for at in (60, 61)), second(62, *calm), second(63, *calm)]
    assert seconds_until_calm(run, 60, CALM) == 2
    assert seconds_until_calm(run[3:], 60, CALM) == 0
    assert seconds_until_calm(run[:3], 60, CALM) == math.inf
    assert seconds_until_calm(run, 60.5, CALM) == pytest.approx(1.5)
    assert seconds_until_calm([*run, *run[1:3]], 60, CALM) == math.inf


def test_one_fallback_among_many_is_calm() -> None:
    run = [second(60, *["confident"] * 39, "fallback:overload"), second(61, *["confident"] * 40)]
    assert seconds_until_calm(run, 60, CALM) == 0
    assert seconds_until_calm(run, 60, CALM, tolerance=0.01) == 1


def test_two_that_meet_later_do_not_make_a_calm_run_late() -> None:
    calm, meeting = second(61, *["confident"] * 8), second(69, "confident", "escalated", "fallback:overload")
    troubled = second(60, *["fallback:overload"] * 2, *["confident"] * 2)
    later = [second(at, *["confident"] * 8) for at in range(62, 69)]
    assert seconds_until_calm([troubled, calm, *later, meeting], 60, CALM) == 1
    # Of fewer requests it would be more than a tenth.
    assert seconds_until_calm([troubled, second(61, "confident"), meeting], 60, CALM) == math.inf
