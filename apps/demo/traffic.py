"""`python -m apps.demo.traffic URL MODEL INPUTS.npz MS`: an open load that is told its rate and tells what comes back.

Reads lines such as {"rate": 50, "mode": "cascade", "act": 0} and writes a list of Windows each half second. Requests
leave when their time has come, whether or not earlier ones were answered, and latency counts from that time. Ends when
its input ends, so it cannot outlive who started it.
"""

import asyncio
import itertools
import json
import random
import sys
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np

REPORT_EVERY_S = 0.5
TIMEOUT_S = 5.0
MAX_IN_FLIGHT = 600
# Full, or too late to be of use: said at once.
REFUSED = (429, 503, 504)
# Routes of requests that got no answer.
UNANSWERED = ("shed", "failed")


@dataclass
class Window:
    """What became of the requests of one act that ended within one report's time.

    `latencies_ms` are of those that were answered, `right` says how many of these were right; `routes` counts all by
    the reason that the answer gave, "shed" where it was a refusal, "failed" where there was none.
    """

    at_s: float
    act: int
    right: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    routes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    act: int
    latency_ms: float
    route: str
    right: bool


@dataclass(frozen=True)
class Payload:
    """One image as a body for each mode, and its class."""

    bodies: dict[str, bytes]
    label: int


def payloads(inputs: Any, labels: Any, deadline_ms: float) -> list[Payload]:
    """V2 requests of one row each, made before the clock starts."""
    made = []
    for row, label in zip(inputs, labels, strict=True):
        tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *row.shape], "data": row.ravel().tolist()}
        asks = {"cascade": {}, "teacher": {"mode": "teacher", "deadline_ms": deadline_ms}}
        bodies = {mode: json.dumps({"inputs": [tensor], "parameters": ask}).encode() for mode, ask in asks.items()}
        made.append(Payload(bodies, int(label)))
    return made


class Traffic:
    """Sends at `rate` a second with exponential gaps, as independent users do."""

    def __init__(self, url: str, made: list[Payload]) -> None:
        self._url = url
        self._payloads = itertools.cycle(made)
        self._random = random.Random(0)  # the same arrivals at every demonstration
        self._mode, self._rate, self._act = "cascade", 0.0, 0
        self._changed = asyncio.Event()
        self._ended: list[Ended] = []
        self._in_flight: set[asyncio.Task[None]] = set()

    def set(self, rate: float, mode: str, act: int = 0) -> None:
        self._rate, self._mode, self._act = rate, mode, act
        self._changed.set()

    async def send(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            due = perf_counter()
            while True:
                if not self._rate:
                    self._changed.clear()
                    await self._changed.wait()
                    due = perf_counter()
                due += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - perf_counter()))
                if len(self._in_flight) >= MAX_IN_FLIGHT:
                    self._ended.append(Ended(self._act, 0.0, "failed", False))
                    continue
                task = asyncio.create_task(self._ask(session, next(self._payloads), self._mode, due))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)

    async def _ask(self, session: aiohttp.ClientSession, payload: Payload, mode: str, due: float) -> None:
        act, route, right = self._act, "failed", False
        try:
            async with session.post(self._url, data=payload.bodies[mode]) as response:
                answer = await response.json(content_type=None)
                if response.status == 200:
                    route = response.headers.get("x-tandem-reason", "answered")
                    right = int(np.argmax(answer["outputs"][0]["data"])) == payload.label
                elif response.status in REFUSED:
                    route = "shed"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
            route = "failed"
        self._ended.append(Ended(act, (perf_counter() - due) * 1e3, route, right))

    def read(self, at_s: float) -> list[Window]:
        """What ended since the last reading, one Window for each act; the act that goes on has one in any case."""
        ended, self._ended = self._ended, []
        windows = {act: Window(at_s, act) for act in sorted({one.act for one in ended} | {self._act})}
        for one in ended:
            window = windows[one.act]
            window.right += one.right
            window.routes[one.route] = window.routes.get(one.route, 0) + 1
            if one.route not in UNANSWERED:
                window.latencies_ms.append(round(one.latency_ms, 1))
        return list(windows.values())


async def run(url: str, made: list[Payload]) -> None:
    traffic = Traffic(url, made)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sending = asyncio.create_task(traffic.send())
    reporting = asyncio.create_task(_report(traffic))
    try:
        while line := await reader.readline():
            order = json.loads(line)
            traffic.set(float(order["rate"]), str(order["mode"]), int(order["act"]))
    finally:
        sending.cancel()
        reporting.cancel()


async def _report(traffic: Traffic) -> None:
    started = perf_counter()
    for number in itertools.count(1):
        await asyncio.sleep(max(0.0, started + number * REPORT_EVERY_S - perf_counter()))
        print(json.dumps([asdict(window) for window in traffic.read(perf_counter() - started)]), flush=True)


def main() -> None:
    url, model, inputs, objective_ms = sys.argv[1:]
    with np.load(inputs) as arrays:
        made = payloads(arrays["inputs"], arrays["labels"], float(objective_ms))
    asyncio.run(run(f"{url}/v2/models/{model}/infer", made))


if __name__ == "__main__":
    main()
