"""Meter: what is counted of every request and batch of one model.

The calls add to plain numbers of this process (`tally.py`); `exporter.py` carries them to Prometheus once a second,
since one call of Ray's metrics costs more than all the counting of a request. All calls come from one thread, the
event loop's.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from apps.observe.statistics import Phases, statistics
from apps.observe.tally import Counts, Distributions, Levels
from training.encoding import Array

if TYPE_CHECKING:
    from apps.observe.exporter import Exporter

Role = Literal["student", "teacher"]
BREAKER_STATES = ("closed", "half-open", "open")

# Dense round the objective of tens of milliseconds, so that a p95 read from the buckets is off by little there.
LATENCY_EDGES_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0),
)
STAGE_EDGES_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
ROWS_EDGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
FILL_EDGES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.999, 1.0)

# Confidences of so many requests wait for the next flush, which sorts them into buckets all at once.
MAX_WAITING = 8192


class Batch(Protocol):
    """One call of a model: `rows` of `jobs` requests, run as `padded_rows`, `fill` of a full batch.

    `queue_s` is how long each request waited, `batch_s` what putting them side by side took, `model_s` the model.
    """

    @property
    def rows(self) -> int: ...
    @property
    def padded_rows(self) -> int: ...
    @property
    def jobs(self) -> int: ...
    @property
    def queue_s(self) -> Sequence[float]: ...
    @property
    def batch_s(self) -> float: ...
    @property
    def model_s(self) -> float: ...
    @property
    def fill(self) -> float: ...


class Routed(Protocol):
    """Who answered a row, and why."""

    @property
    def variant(self) -> str: ...
    @property
    def reason(self) -> str: ...


OnBatch = Callable[[Batch], None]


class Meter(Protocol):
    def record(
        self,
        release: str,
        variant: str,
        reason: str,
        status: int,
        latency_ms: float,
        protocol: str = "http",
        parse_ms: float = 0.0,
        encode_ms: float = 0.0,
    ) -> None:
        """One request; `variant`, `reason` and `release` are empty where nobody answered, `status` is an HTTP status.

        `parse_ms` and `encode_ms` are the parts of `latency_ms` that went into reading and writing tensors.
        """
        ...

    def began(self) -> None:
        """A request came in; `ended` follows, however it ends."""
        ...

    def ended(self) -> None: ...

    def routes(self, release: str, routes: Sequence[Routed]) -> None:
        """Who answered each row of a request."""
        ...

    def confidence(self, release: str, confidence_B: Array) -> None:
        """The student's confidence in each row that it was asked about. The array is kept until the next flush."""
        ...

    def batches(self, release: str, role: Role) -> OnBatch:
        """What a Batcher calls after each batch."""
        ...

    def shed(self, reason: str, release: str = "", role: str = "ingress") -> None:
        """A request went without this model's answer so that others come in time; `role` says where."""
        ...

    def watch_breaker(self, release: str, state: Callable[[], str]) -> None:
        """`state` is asked once a second, from another thread: "closed", "half-open" or "open"."""
        ...

    def watch_queue(self, release: str, role: Role, rows: Callable[[], int]) -> None:
        """`rows` that wait is asked once a second, from another thread."""
        ...

    def statistics(self, versions: Sequence[str], version: str | None = None) -> dict[str, Any]:
        """What `GET /v2/models/{m}/stats` answers: see `apps/observe/statistics.py`."""
        ...


class NoMeter:
    """Counts nothing."""

    def record(
        self,
        release: str,
        variant: str,
        reason: str,
        status: int,
        latency_ms: float,
        protocol: str = "http",
        parse_ms: float = 0.0,
        encode_ms: float = 0.0,
    ) -> None:
        return

    def began(self) -> None:
        return

    def ended(self) -> None:
        return

    def routes(self, release: str, routes: Sequence[Routed]) -> None:
        return

    def confidence(self, release: str, confidence_B: Array) -> None:
        return

    def batches(self, release: str, role: Role) -> OnBatch:
        return _ignore

    def shed(self, reason: str, release: str = "", role: str = "ingress") -> None:
        return

    def watch_breaker(self, release: str, state: Callable[[], str]) -> None:
        return

    def watch_queue(self, release: str, role: Role, rows: Callable[[], int]) -> None:
        return

    def statistics(self, versions: Sequence[str], version: str | None = None) -> dict[str, Any]:
        return {"model_stats": []}


def _ignore(batch: Batch) -> None:
    return


class ServeMeter:
    """The numbers of `model`. Without an `exporter` they stay in this process, where `statistics` reads them."""

    def __init__(self, model: str, exporter: "Exporter | None" = None) -> None:
        self.model = model
        self._requests = Counts(
            "tandem_requests",
            "Requests by who answered them and why.",
            ("version", "variant", "reason", "protocol", "status"),
        )
        self._latency = Distributions(
            "tandem_request_duration_seconds",
            "Time from a request's last byte to its answer, inside the ingress.",
            ("version", "variant", "reason", "protocol"),
            LATENCY_EDGES_S,
        )
        self._in_flight = Levels("tandem_requests_in_flight", "Requests that are being answered.", ())
        self._rows = Counts("tandem_rows", "Rows by who answered them and why.", ("version", "variant", "reason"))
        self._confidence = Distributions(
            "tandem_student_confidence", "The student's calibrated confidence, by row.", ("version",), CONFIDENCE_EDGES
        )
        self._shed = Counts(
            "tandem_shed", "Requests left unanswered so that others come in time.", ("version", "role", "reason")
        )
        self._breaker = Levels(
            "tandem_breaker_state", "1 for the state of the breaker before the teacher.", ("version", "state")
        )
        stage = ("version", "role")
        self._queue = Distributions(
            "tandem_queue_duration_seconds", "Wait for a batch, by request.", stage, STAGE_EDGES_S
        )
        self._batch = Distributions(
            "tandem_batch_duration_seconds", "Putting the rows of a batch side by side.", stage, STAGE_EDGES_S
        )
        self._model_time = Distributions(
            "tandem_model_duration_seconds", "The model's own time for a batch.", stage, STAGE_EDGES_S
        )
        self._batch_rows = Distributions("tandem_batch_rows", "Rows of a batch.", stage, ROWS_EDGES)
        self._fill = Distributions("tandem_batch_fill", "Rows of a batch by those of a full one.", stage, FILL_EDGES)
        self._queue_rows = Levels("tandem_queue_rows", "Rows that wait for a batch.", stage)
        self._padded_rows = Counts("tandem_batch_padded_rows", "Rows of a batch as it was run.", stage)
        self._waiting: deque[tuple[str, Array]] = deque(maxlen=MAX_WAITING)
        self._watches: list[Callable[[], None]] = []
        self._phases: dict[str, Phases] = {}
        if exporter is not None:
            exporter.watch(self)

    @property
    def families(self) -> tuple[Counts | Levels | Distributions, ...]:
        """All that is counted, for whoever carries it on; called from its thread."""
        self._sort_confidences()
        for look in self._watches:
            look()
        return (
            *(self._requests, self._latency, self._in_flight, self._rows, self._confidence, self._shed, self._breaker),
            *(self._queue, self._batch, self._model_time, self._batch_rows, self._fill, self._padded_rows),
            self._queue_rows,
        )

    def record(
        self,
        release: str,
        variant: str,
        reason: str,
        status: int,
        latency_ms: float,
        protocol: str = "http",
        parse_ms: float = 0.0,
        encode_ms: float = 0.0,
    ) -> None:
        self._requests.add((release, variant, reason, protocol, status))
        latency_s = latency_ms * 1e-3
        self._latency.cell((release, variant, reason, protocol)).add(latency_s)
        phases = self._phases.get(release) or self._phases_of(release)
        phases.add(status, latency_s, parse_ms * 1e-3, encode_ms * 1e-3, time.time())

    def began(self) -> None:
        self._in_flight.shift((), 1)

    def ended(self) -> None:
        self._in_flight.shift((), -1)

    def routes(self, release: str, routes: Sequence[Routed]) -> None:
        if not routes:
            return
        phases = self._phases.get(release) or self._phases_of(release)
        phases.rows += len(routes)
        first = routes[0]
        # The Router hands out one object for all rows that went one way: compare by identity, and mostly only once.
        same = sum(route is first for route in routes) if len(routes) > 1 else 1
        self._rows.add((release, first.variant, first.reason), same)
        if same < len(routes):
            for route in routes:
                if route is not first:
                    self._rows.add((release, route.variant, route.reason))

    def confidence(self, release: str, confidence_B: Array) -> None:
        self._waiting.append((release, confidence_B))

    def batches(self, release: str, role: Role) -> OnBatch:
        key = (release, role)
        queue, whole, model = (family.cell(key) for family in (self._queue, self._batch, self._model_time))
        rows, fill = self._batch_rows.cell(key), self._fill.cell(key)
        phases = self._phases_of(release)

        def on_batch(batch: Batch) -> None:
            for wait_s in batch.queue_s:
                queue.add(wait_s)
            whole.add(batch.batch_s)
            model.add(batch.model_s)
            rows.add(batch.rows)
            fill.add(batch.fill)
            self._padded_rows.add(key, batch.padded_rows)
            phases.add_batch(batch.rows, batch.jobs, sum(batch.queue_s), batch.model_s)

        return on_batch

    def shed(self, reason: str, release: str = "", role: str = "ingress") -> None:
        self._shed.add((release, role, reason))

    def watch_breaker(self, release: str, state: Callable[[], str]) -> None:
        def look() -> None:
            now = state()
            for known in BREAKER_STATES:
                self._breaker.set((release, known), float(known == now))

        self._watches.append(look)

    def watch_queue(self, release: str, role: Role, rows: Callable[[], int]) -> None:
        self._watches.append(lambda: self._queue_rows.set((release, role), rows()))

    def statistics(self, versions: Sequence[str], version: str | None = None) -> dict[str, Any]:
        return statistics(self.model, self._phases, versions, version)

    def _phases_of(self, release: str) -> Phases:
        return self._phases.setdefault(release, Phases())

    def _sort_confidences(self) -> None:
        by_release: dict[str, list[Array]] = {}
        while self._waiting:
            release, confidence_B = self._waiting.popleft()
            by_release.setdefault(release, []).append(confidence_B)
        for release, parts in by_release.items():
            values = np.concatenate(parts)
            cell = self._confidence.cell((release,))
            found = np.bincount(np.searchsorted(CONFIDENCE_EDGES, values), minlength=len(cell.buckets))
            cell.buckets = [before + int(new) for before, new in zip(cell.buckets, found, strict=True)]
            cell.total += float(np.nansum(values))
