from typing import Any

import numpy as np
import pytest

from loadtests.endpoint import model_metadata
from loadtests.open_loop import Plan, Progress, run_open_loop, schedule
from loadtests.payloads import InferRequest, RequestOptions, infer_requests
from loadtests.samples import bundled_digits


@pytest.fixture
def requests(endpoint: Any) -> list[InferRequest]:
    return infer_requests(model_metadata(endpoint.url, "digits"), bundled_digits(), RequestOptions())


def test_poisson_arrivals_are_fixed_by_the_seed_and_have_exponential_gaps() -> None:
    plan = Plan(rate=200, duration_s=100, warmup_s=5, seed=1)
    times_s = schedule(plan)
    assert np.array_equal(times_s, schedule(plan))
    assert not np.array_equal(times_s[:10], schedule(Plan(rate=200, duration_s=100, warmup_s=5, seed=2))[:10])
    assert -5 <= times_s[0] < times_s[-1] < 100
    gaps_s = np.diff(times_s)
    assert gaps_s.min() >= 0
    # 21,000 gaps: the mean is known to 0.7 %, and an exponential's deviation equals its mean.
    assert gaps_s.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps_s.std() == pytest.approx(1 / 200, rel=0.05)


def test_uniform_arrivals_keep_one_distance() -> None:
    times_s = schedule(Plan(rate=50, duration_s=2, warmup_s=1, arrivals="uniform"))
    assert len(times_s) == 150
    assert times_s[0] == -1
    assert np.allclose(np.diff(times_s), 0.02)


def test_latency_counts_from_the_schedule_so_waiting_behind_a_stall_is_included(
    endpoint: Any, requests: list[InferRequest]
) -> None:
    endpoint.serial = True
    endpoint.delay_s = 0.001
    endpoint.stall = (10, 0.5)
    plan = Plan(rate=50, duration_s=1, arrivals="uniform")
    latencies_ms = [outcome.latency_ms or 0.0 for outcome in run_open_loop(endpoint.url, requests, plan)]
    # One request was held for 500 ms; the one 10 arrivals (200 ms) later still waits for the rest of it.
    assert latencies_ms[9] > 450
    assert 250 < latencies_ms[19] < latencies_ms[9]
    assert latencies_ms[45] < 250


def test_warmup_is_sent_but_not_counted(endpoint: Any, requests: list[InferRequest]) -> None:
    outcomes = run_open_loop(endpoint.url, requests, Plan(rate=40, duration_s=0.5, warmup_s=0.5, arrivals="uniform"))
    assert len(outcomes) == 20
    assert len(endpoint.heads) == 40
    assert all(0 <= outcome.scheduled_s < 0.5 for outcome in outcomes)


def test_what_cannot_be_sent_has_failed(endpoint: Any, requests: list[InferRequest]) -> None:
    endpoint.delay_s = 0.6
    plan = Plan(rate=40, duration_s=0.5, arrivals="uniform", max_in_flight=3)
    outcomes = run_open_loop(endpoint.url, requests, plan)
    assert [outcome.reply is not None for outcome in outcomes] == [True] * 3 + [False] * 17
    assert outcomes[3].failure == "not sent: 3 requests were in flight"
    assert len(endpoint.heads) == 3


def test_late_answer_has_failed(endpoint: Any, requests: list[InferRequest]) -> None:
    endpoint.delay_s = 0.8
    outcomes = run_open_loop(endpoint.url, requests, Plan(rate=20, duration_s=0.2, arrivals="uniform", timeout_s=0.2))
    assert {outcome.failure for outcome in outcomes} == {"no answer within 0.2 s"}
    assert {outcome.latency_ms for outcome in outcomes} == {None}


def test_lost_connection_has_failed(requests: list[InferRequest]) -> None:
    outcomes = run_open_loop("http://127.0.0.1:9", requests, Plan(rate=20, duration_s=0.2, arrivals="uniform"))
    assert all((outcome.failure or "").startswith("connection: ") for outcome in outcomes)


def test_progress_is_shown_while_it_runs(endpoint: Any, requests: list[InferRequest]) -> None:
    sent: list[int] = []

    def show(progress: Progress) -> None:
        sent.append(progress.sent)

    run_open_loop(endpoint.url, requests, Plan(rate=50, duration_s=0.6, arrivals="uniform"), show, 0.1)
    assert len(sent) >= 2
    assert sent == sorted(sent) and 0 < sent[0] < sent[-1] <= 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0},
        {"base_rate": 11, "shape": "ramp"},
        {"rate": float("nan")},
        {"duration_s": -1},
        {"warmup_s": -1},
        {"max_in_flight": 0},
        {"rate": 0.1},
    ],
)
def test_impossible_plan_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=next(iter(wrong)).replace("_rate", "") if wrong != {"rate": 0.1} else "less than one request"
    ):
        Plan(**{"rate": 10.0, "duration_s": 1.0} | wrong)


def test_shaped_arrivals_rise_and_fall_and_the_warm_up_is_at_the_first_rate() -> None:
    times_s = schedule(Plan(rate=100, duration_s=9, warmup_s=2, arrivals="uniform", shape="step", base_rate=20))
    counts, _ = np.histogram(times_s, bins=[-2, 0, 3, 6, 9])
    assert list(counts) == pytest.approx([40, 60, 300, 60], abs=2)
