import json
import math

import numpy as np
import pytest

from loadtests.open_loop import Outcome, Reply
from loadtests.payloads import InferRequest
from loadtests.summary import Objective, judge, quantile, summarize


def outcome(scheduled_s: float, latency_ms: float, status: int = 200, label: int = 1) -> Outcome:
    request = InferRequest("/v2/models/digits/infer", b"", {}, (label,))
    body = json.dumps({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 1.0]}]})
    reply = Reply(status, {"x-tandem-variant": "student"}, body.encode())
    return Outcome(scheduled_s, request, scheduled_s, scheduled_s + latency_ms / 1e3, reply)


@pytest.mark.parametrize(("q", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.951, 96)])
def test_quantile_is_the_nearest_rank(q: float, value: float) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1, 101)).tolist()
    assert quantile(values, q) == value
    assert quantile(values, q) == np.quantile(values, q, method="inverted_cdf")


def test_p95_counts_failures_as_infinite() -> None:
    good = [outcome(i / 100, 10) for i in range(95)]
    four_fail = [judge(item, "logits") for item in [*good, outcome(1, 10), *[outcome(1, 1, 503)] * 4]]
    six_fail = [judge(item, "logits") for item in [*good[:94], *[outcome(1, 1, 503)] * 6]]
    objective = Objective(p95_ms=20, max_error_rate=0.5)
    met = summarize([*good, *[outcome(1, 10)] * 5], four_fail, 1.0)
    missed = summarize([*good, *[outcome(1, 10)] * 5], six_fail, 1.0)
    assert met.latency_ms.p95 == pytest.approx(10) and met.met(objective)
    assert missed.latency_ms.p95 == math.inf and not missed.met(objective)


def test_error_rate_is_an_objective_of_its_own() -> None:
    outcomes = [*[outcome(i / 100, 10) for i in range(99)], outcome(0.99, 10, 500)]
    summary = summarize(outcomes, [judge(item, "logits") for item in outcomes], 1.0)
    assert summary.latency_ms.p95 == pytest.approx(10)
    assert not summary.met(Objective(p95_ms=20))
    assert summary.met(Objective(p95_ms=20, max_error_rate=0.01))


def test_accuracy_is_that_of_the_rows_answered() -> None:
    outcomes = [outcome(0, 5, label=1), outcome(0.1, 5, label=0), outcome(0.2, 5, 500, label=1)]
    summary = summarize(outcomes, [judge(item, "logits") for item in outcomes], 1.0)
    assert (summary.rows, summary.accuracy) == (2, 0.5)


def test_answered_rate_reaches_to_the_last_answer() -> None:
    outcomes = [outcome(0.0, 10), outcome(0.5, 1500)]
    summary = summarize(outcomes, [judge(item, "logits") for item in outcomes], 1.0)
    assert (summary.offered_rate, summary.answered_rate) == (2.0, 1.0)


def test_client_lag_is_how_late_requests_were_sent() -> None:
    late = outcome(0.0, 100)
    late.sent_s = 0.04
    summary = summarize([late], [judge(late, "logits")], 1.0)
    assert summary.client_lag_p95_ms == pytest.approx(40)
    assert summary.latency_ms.p95 == pytest.approx(100)


def test_what_the_endpoint_says_cannot_control_the_terminal() -> None:
    broken = outcome(0, 5, 500)
    broken.reply = Reply(500, {}, b"\x1b[2Jno\xff")
    assert judge(broken, "logits").detail == " [2Jno\ufffd"
