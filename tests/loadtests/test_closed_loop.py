from typing import Any

import pytest

from loadtests.closed_loop import answered_per_s, run_closed_loop
from loadtests.endpoint import model_metadata
from loadtests.payloads import InferRequest, RequestOptions, infer_requests
from loadtests.samples import bundled_digits


@pytest.fixture
def requests(endpoint: Any) -> list[InferRequest]:
    return infer_requests(model_metadata(endpoint.url, "digits"), bundled_digits(), RequestOptions())


def test_each_client_waits_for_its_answer(endpoint: Any, requests: list[InferRequest]) -> None:
    endpoint.serial = True
    endpoint.delay_s = 0.02
    outcomes = run_closed_loop(endpoint.url, requests, clients=4, duration_s=1.0)
    # One after another takes 20 ms each, whatever the number of clients.
    assert 20 < answered_per_s(outcomes) <= 50
    # Never more under way than there are clients.
    events = [(at_s, step) for o in outcomes for at_s, step in ((o.scheduled_s, 1), (o.done_s or 0.0, -1))]
    under_way, most = 0, 0
    for _, step in sorted(events):
        under_way += step
        most = max(most, under_way)
    assert most == 4


def test_refusals_are_no_answers(endpoint: Any, requests: list[InferRequest]) -> None:
    endpoint.status = 503
    assert answered_per_s(run_closed_loop(endpoint.url, requests, clients=2, duration_s=0.2)) == 0


@pytest.mark.parametrize(("clients", "duration_s"), [(0, 1.0), (1, 0.0)])
def test_impossible_loop_is_refused(clients: int, duration_s: float) -> None:
    with pytest.raises(ValueError, match="at least one client"):
        run_closed_loop("http://127.0.0.1:9", [], clients, duration_s)
