"""Replicas that die and updates that roll, under load, on the front end that `make up` starts."""

import asyncio
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import psutil
import pytest

from tests.serve.deployed import Deployed, deploy, publish_champion, until
from tests.tiny import SURE, UNSURE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "resilient"
PATH = f"/v2/models/{MODEL}/infer"
DEADLINE_MS = 2_000
# Below and above the 16 kB that HAProxy keeps of a request, without which it cannot send it a second time.
SMALL, LARGE = 8_000, 100_000


@dataclass(frozen=True)
class Sent:
    """One request; `failure` is empty where its own answer came back with status 200."""

    started_s: float
    ended_s: float
    failure: str
    reason: str


@dataclass
class Load:
    """Closed loop from `connections` kept-alive connections until the block ends; nothing is ever sent twice."""

    served: Deployed
    body_bytes: int = SMALL
    connections: int = 16
    deadline_ms: int = DEADLINE_MS
    sent: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Load":
        self._thread.start()
        until(lambda: len(self.sent) > 2 * self.connections, 30, "the load runs")
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopped.set()
        self._thread.join(60)

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, trust_env=False
        ) as session:
            await asyncio.gather(*(self._send_on(session, number) for number in range(self.connections)))

    async def _send_on(self, session: aiohttp.ClientSession, connection: int) -> None:
        count = 0
        while not self._stopped.is_set():
            count += 1
            identity = f"{connection}-{count}"
            content = body(identity, self.deadline_ms).ljust(self.body_bytes)
            started_s, failure, reason = time.monotonic(), "", ""
            try:
                async with session.post(f"{self.served.url}{PATH}", data=content) as response:
                    text = await response.text()
                    answer = json.loads(text) if response.status == 200 else {}
                    reason = answer.get("parameters", {}).get("reason", "")
                    if answer.get("id") != identity:
                        failure = f"{response.status}: {text[:200]}"
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = repr(error)
            self.sent.append(Sent(started_s, time.monotonic(), failure, reason))
            await asyncio.sleep(0.01)

    def failures(self) -> list[Sent]:
        return [request for request in self.sent if request.failure]

    def reasons_since(self, moment_s: float) -> Counter[str]:
        return Counter(request.reason for request in list(self.sent) if request.started_s > moment_s)

    def answered_since(self, moment_s: float) -> int:
        return sum(request.started_s > moment_s and not request.failure for request in list(self.sent))


def body(identity: str, deadline_ms: int = DEADLINE_MS) -> bytes:
    rows = np.stack([SURE, UNSURE])
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return json.dumps({"id": identity, "parameters": {"deadline_ms": deadline_ms}, "inputs": [tensor]}).encode()


@pytest.fixture(scope="module")
def deploy_it(cluster, serve_port, tmp_path_factory) -> Callable[..., Deployed]:
    folder = tmp_path_factory.mktemp(MODEL)
    publish_champion(cluster, folder, MODEL)

    def deploy_it(**changes):
        args = {"model": MODEL, "deadline_ms": DEADLINE_MS, **changes}
        return deploy(cluster, folder, serve_port, MODEL, args, {"Ingress": {"num_replicas": 2}})

    return deploy_it


@pytest.fixture(scope="module")
def served(deploy_it):
    served = deploy_it()
    # The start of a new application may still be about when it is ready: a kill should meet it at rest.
    until(lambda: len(served.replicas("Ingress")) == 2, 60, "two ingress replicas")
    return served


def pids(served, deployment):
    return {replica["pid"] for replica in served.replicas(deployment)}


def kill_one(served, deployment, others):
    """kill -9 of one replica; returns when it happened, once another runs in its place."""
    before = pids(served, deployment)
    assert len(before) == others + 1
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    moment_s = time.monotonic()
    until(lambda: len(pids(served, deployment) - {killed}) == others + 1, 120, f"another replica of {deployment}")
    return moment_s


def test_everything_that_serves_listens_on_loopback_alone(served):
    family = [process for pid in pids(served, "Ingress") for process in psutil.Process(pid).parents()]
    raylet = next(process for process in family if process.name() == "raylet")
    addresses = [
        (process.name(), address) for process in raylet.children(recursive=True) for address in listening(process)
    ]
    assert "haproxy" in {name for name, _ in addresses}
    assert [(name, address) for name, address in addresses if address.ip not in ("127.0.0.1", "::1")] == []


def listening(process):
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return []
    return [
        connection.laddr._replace(ip=connection.laddr.ip.removeprefix("::ffff:"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]


def test_replicas_run_with_the_flags_that_the_head_was_given(served, cluster):
    for pid in pids(served, "Ingress") | pids(served, "Teacher"):
        environment = psutil.Process(pid).environ()
        expected = cluster.ray.front.environment
        assert {name: environment.get(name) for name in expected} == expected


def test_a_killed_teacher_loses_no_request_and_comes_back(served):
    escalated = "confident,escalated"
    with Load(served, connections=4, deadline_ms=300) as load:
        until(lambda: load.reasons_since(0)[escalated] > 20, 30, "the teacher answers")
        killed_s = kill_one(served, "Teacher", others=0)
        assert any("fallback" in reason for reason in load.reasons_since(killed_s))
        back_s = time.monotonic()
        until(lambda: load.reasons_since(back_s)[escalated] > 20, 30, "the teacher answers again")
    assert load.failures() == []
    stood_in = {f"confident,fallback:{why}" for why in ("timeout", "unavailable")}
    assert set(load.reasons_since(0)) <= {escalated, *stood_in}


def test_a_killed_ingress_replica_loses_no_request_that_haproxy_can_send_again(served):
    with Load(served) as load:
        killed_s = kill_one(served, "Ingress", others=1)
        until(lambda: load.answered_since(killed_s) > 200, 30, "answers after the kill")
    assert load.failures() == []


def test_of_large_requests_a_killed_ingress_replica_loses_what_it_held(served, record_property):
    with Load(served, LARGE) as load:
        killed_s = kill_one(served, "Ingress", others=1)
        until(lambda: load.answered_since(killed_s) > 200, 30, "answers after the kill")
    lost = load.failures()
    record_property("large_requests_lost", len(lost))
    print(f"a killed ingress replica: {len(lost)} of {len(load.sent)} requests of {LARGE} bytes lost")
    # What a dying process held: it takes a moment from the signal until its sockets are closed.
    dead_s = killed_s + 0.5
    assert [request for request in lost if request.started_s > dead_s or request.ended_s < killed_s - 0.1] == []
    assert len(lost) <= load.connections


@pytest.mark.parametrize("body_bytes", [SMALL, LARGE])
def test_a_rolling_update_fails_no_request(served, deploy_it, body_bytes):
    before = pids(served, "Ingress") | pids(served, "Teacher")
    idle = http.client.HTTPConnection(*served.url.removeprefix("http://").split(":"), timeout=30)
    assert post(idle) == (200, "idle")
    with Load(served, body_bytes) as load:
        deploy_it(deadline_ms=DEADLINE_MS + body_bytes / 1000)
        until(lambda: not any(psutil.pid_exists(pid) for pid in before), 120, "the old replicas are gone")
        gone_s = time.monotonic()
        until(lambda: load.answered_since(gone_s) > 200, 30, "answers from the new replicas alone")
    assert load.failures() == []
    # A connection that a client kept open meanwhile still belongs to the HAProxy of before the update.
    assert post(idle) == (200, "idle")
    idle.close()


def post(connection):
    connection.request("POST", PATH, body("idle"))
    response = connection.getresponse()
    return response.status, json.loads(response.read()).get("id")
