"""Replicas follow the load, up and down, and no request is lost on the way."""

import json
import threading
import time
from collections import Counter

import httpx
import pytest

from tests.serve.deployed import deploy, publish_champion, until
from tests.tiny import UNSURE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MODEL = "scaled"
PATH = f"/v2/models/{MODEL}/infer"
# A replica answers 25 rows/s of the slow teacher's: 60 need three of them at four fifths of that.
LOW_PER_S, HIGH_PER_S = 4.0, 60.0
SENDERS = 12


class Load:
    """Sends one unsure row at a time, `per_s` of them a second, on kept-alive connections, until the block ends."""

    def __init__(self, served, per_s, deadline_ms):
        self.per_s = per_s
        self.answers = []
        tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *UNSURE.shape], "data": UNSURE.ravel().tolist()}
        self._content = json.dumps({"parameters": {"deadline_ms": deadline_ms}, "inputs": [tensor]})
        self._served = served
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(SENDERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure):
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self):
        with self._served.client() as client:
            while not self._stopped.is_set():
                began = time.monotonic()
                try:
                    response = client.post(PATH, content=self._content)
                    status, reason = response.status_code, response.headers.get("x-tandem-reason", "")
                except httpx.HTTPError as error:
                    status, reason = repr(error), ""
                self.answers.append((began, status, reason))
                self._stopped.wait(max(0.0, began + SENDERS / self.per_s - time.monotonic()))

    def statuses(self):
        return Counter(status for _, status, _ in self.answers)

    def reasons_since(self, moment):
        return Counter(reason for began, _, reason in list(self.answers) if began > moment)


@pytest.fixture(scope="module")
def deploy_scaled(cluster, serve_port, tmp_path_factory):
    folder = tmp_path_factory.mktemp(MODEL)
    publish_champion(cluster, folder, MODEL)

    def deploy_scaled(deadline_ms, **autoscaling):
        settings = {
            "max_replicas": 3,
            "policy": {
                "policy_function": "apps.scaling:SloPolicy",
                "policy_kwargs": {"p95_ms": 300, "cooldown_s": 3},
            },
            "metrics_interval_s": 1,
            "look_back_period_s": 3,
            "upscale_delay_s": 0,
            "downscale_delay_s": 2,
            **autoscaling,
        }
        teacher = {"autoscaling_config": settings, "ray_actor_options": {"num_cpus": 0.2}}
        args = {"model": MODEL, "deadline_ms": deadline_ms, "max_batch_rows": 4}
        slow = "tests.serve.slow_teacher:build"
        return deploy(cluster, folder, serve_port, MODEL, args, {"Teacher": teacher}, slow)

    return deploy_scaled


def test_replicas_follow_the_load_up_to_three_and_back_to_one_and_lose_nothing(deploy_scaled):
    served = deploy_scaled(deadline_ms=2_000)
    counts = []

    def running():
        counts.append(len(served.replicas("Teacher")))
        return counts[-1]

    assert running() == 1
    with Load(served, LOW_PER_S, deadline_ms=2_000) as load:
        time.sleep(4)
        assert running() == 1
        load.per_s = HIGH_PER_S
        until(lambda: running() == 3, 60, "three replicas run")
        settled = time.monotonic() + 3
        until(lambda: load.reasons_since(settled)["escalated"] > HIGH_PER_S, 30, "three replicas answer")
        answered = load.reasons_since(settled)
        load.per_s = LOW_PER_S
        until(lambda: running() == 1, 60, "one replica is left")
        time.sleep(1)
    assert set(load.statuses()) == {200}, load.statuses()
    assert answered["escalated"] > 0.8 * answered.total(), answered
    assert max(counts) == 3


def test_a_teacher_that_was_let_go_is_woken_by_the_rows_that_need_it(deploy_scaled):
    served = deploy_scaled(deadline_ms=300, min_replicas=0, downscale_to_zero_delay_s=2)
    until(lambda: not served.replicas("Teacher"), 60, "the teacher without work is let go")
    with Load(served, LOW_PER_S, deadline_ms=300) as load:
        until(lambda: load.reasons_since(0)["escalated"] > 5, 60, "the teacher answers")
    reasons = load.reasons_since(0)
    assert set(load.statuses()) == {200}, load.statuses()
    # The student carried the cold start.
    assert set(reasons) <= {"escalated", "fallback:unavailable", "fallback:timeout", "fallback:overload"}, reasons
    assert reasons["fallback:unavailable"] + reasons["fallback:timeout"] > 0, reasons
