"""Open loop: requests leave when the schedule says so, whether or not earlier ones were answered.

Latency counts from the scheduled arrival, so a stall is charged to every request that it delays (no coordinated
omission). A request that cannot be sent because too many are under way has failed.
"""

import asyncio
import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loadtests.payloads import InferRequest
from loadtests.shapes import Shape, ShapeName, arrivals
from loadtests.transports import GrpcTransport, HttpTransport, Reply, Transport, TransportError

# select() wakes within 0.2 ms of a scheduled arrival where epoll rounds up to the next millisecond, but it can only
# watch file descriptors below 1024.
MAX_IN_FLIGHT = 900

Arrivals = Literal["poisson", "uniform"]


@dataclass(frozen=True)
class Plan:
    """When to send: `rate` requests/s for `duration_s`, after `warmup_s` at the first rate that are not counted.

    With a `shape` other than steady, `rate` is its peak and `base_rate` where it is lowest.
    """

    rate: float
    duration_s: float
    warmup_s: float = 0.0
    shape: ShapeName = "steady"
    base_rate: float = 0.0
    arrivals: Arrivals = "poisson"
    seed: int = 0
    timeout_s: float = 10.0
    max_in_flight: int = 256

    def __post_init__(self) -> None:
        for name in ("rate", "duration_s", "timeout_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0 and finite")
        if not 0 <= self.warmup_s < float("inf"):
            raise ValueError(f"warmup_s is {self.warmup_s}: it must be 0 or more, and finite")
        if not 1 <= self.max_in_flight <= MAX_IN_FLIGHT:
            raise ValueError(f"max_in_flight is {self.max_in_flight}: it must be 1 to {MAX_IN_FLIGHT}")
        if self.rate * self.duration_s < 1:
            raise ValueError(f"{self.rate} requests/s for {self.duration_s} s is less than one request; run for longer")
        Shape(self.shape, self.base_rate, self.rate, self.duration_s)

    def rate_at(self, at_s: float) -> float:
        """Requests a second at `at_s` of the measured time."""
        return Shape(self.shape, self.base_rate, self.rate, self.duration_s).rate(at_s)


@dataclass
class Outcome:
    """What became of one scheduled request; times in seconds from the start of the measured window.

    `reply` is None where nothing came back, and `failure` then says why. `sent_s` is None where it was never sent.
    """

    scheduled_s: float
    request: InferRequest
    sent_s: float | None = None
    done_s: float | None = None
    reply: Reply | None = None
    failure: str | None = None

    @property
    def latency_ms(self) -> float | None:
        """From the scheduled arrival to the last byte of the answer, of any status."""
        return None if self.done_s is None else (self.done_s - self.scheduled_s) * 1e3


@dataclass
class Progress:
    """Where a run stands; `recent_ms` holds the latest latencies only."""

    elapsed_s: float = 0.0
    sent: int = 0
    in_flight: int = 0
    failed: int = 0
    recent_ms: list[float] = field(default_factory=list)


def schedule(plan: Plan) -> NDArray[np.float64]:
    """Arrival times in seconds, rising, in [-warmup_s, duration_s); 0 is where measuring starts.

    Poisson arrivals have exponential gaps, as independent users do; the same seed gives the same times.
    """
    span_s = plan.warmup_s + plan.duration_s
    # Six standard deviations above the most that can be expected: too few gaps would cut the run short.
    count = int(span_s * plan.rate + 6 * np.sqrt(span_s * plan.rate) + 16)
    if plan.arrivals == "uniform":
        # The first request leaves at once, the others a gap after the one before.
        gaps = np.concatenate([[0.0], np.ones(count)])
    else:
        gaps = np.random.default_rng(plan.seed).exponential(1.0, count)
    return arrivals(lambda at_s: plan.rate_at(at_s - plan.warmup_s), span_s, gaps) - plan.warmup_s


def run_open_loop(
    url: str,
    requests: Sequence[InferRequest],
    plan: Plan,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    progress_every_s: float = 0.5,
) -> list[Outcome]:
    """Send `requests` round-robin to `url` by the plan; returns the measured outcomes in order of arrival.

    `url` is http://..., https://... or grpc://host:port, and the requests are of that protocol.

    Warm-up requests are left out. Blocks until every request was answered, failed, or met its timeout.
    """

    async def main() -> list[Outcome]:
        client = _Client(url, plan)
        reporting = asyncio.create_task(_report(client, on_progress, progress_every_s))
        try:
            return await client.run(requests)
        finally:
            reporting.cancel()

    def loop_factory() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        outcomes = runner.run(main())
    return [outcome for outcome in outcomes if outcome.scheduled_s >= 0]


def open_transport(url: str, timeout_s: float) -> Transport:
    """The transport for `url`'s scheme, for the running event loop."""
    scheme, _, rest = url.partition("://")
    return GrpcTransport(rest, timeout_s) if scheme == "grpc" else HttpTransport(url, timeout_s)


async def _report(client: "_Client", on_progress: Callable[[Progress], None], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        client.progress.elapsed_s = client.now_s()
        on_progress(client.progress)


class _Client:
    def __init__(self, url: str, plan: Plan) -> None:
        self._url = url
        self._plan = plan
        self._origin_s = perf_counter() + plan.warmup_s
        self.progress = Progress()

    def now_s(self) -> float:
        return perf_counter() - self._origin_s

    async def run(self, requests: Sequence[InferRequest]) -> list[Outcome]:
        times = schedule(self._plan)
        outcomes = [Outcome(float(at_s), requests[index % len(requests)]) for index, at_s in enumerate(times)]
        under_way: set[asyncio.Task[None]] = set()
        transport = open_transport(self._url, self._plan.timeout_s)
        try:
            self._origin_s = perf_counter() + self._plan.warmup_s
            for outcome in outcomes:
                wait_s = outcome.scheduled_s - self.now_s()
                # Also when late: answers that arrived meanwhile have to be seen before more is sent.
                await asyncio.sleep(max(0.0, wait_s))
                if len(under_way) >= self._plan.max_in_flight:
                    self._fail(outcome, f"not sent: {self._plan.max_in_flight} requests were in flight")
                    continue
                task = asyncio.create_task(self._send(transport, outcome))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                self.progress.sent += 1
                self.progress.in_flight = len(under_way)
            if under_way:
                await asyncio.wait(under_way)
        finally:
            await transport.close()
        return outcomes

    async def _send(self, transport: Transport, outcome: Outcome) -> None:
        outcome.sent_s = self.now_s()
        try:
            reply = await transport.send(outcome.request)
        except TransportError as error:
            self._fail(outcome, str(error))
            return
        outcome.done_s = self.now_s()
        outcome.reply = reply
        if not 200 <= reply.status < 300:
            self.progress.failed += 1
        self.progress.recent_ms = [*self.progress.recent_ms[-199:], (outcome.done_s - outcome.scheduled_s) * 1e3]

    def _fail(self, outcome: Outcome, failure: str) -> None:
        outcome.failure = failure
        self.progress.failed += 1
