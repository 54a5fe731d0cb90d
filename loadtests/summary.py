"""Summary: the numbers of one run, and whether the objective was met."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtests.answers import AnswerError, read_grpc_answer, read_logits
from loadtests.open_loop import Outcome
from loadtests.transports import GRPC_CONTENT

ROUTE_HEADERS = ("x-tandem-variant", "x-tandem-reason", "x-tandem-release")
# Over gRPC the answer's parameters say it, variant and reason once a row.
ROUTE_PARAMETERS = ("variant", "reason", "release")
UNKNOWN = "-"


@dataclass(frozen=True)
class Objective:
    """p95 over all requests, failed ones counted as infinitely late, and the share of requests that may fail."""

    p95_ms: float
    max_error_rate: float = 0.0

    def __post_init__(self) -> None:
        if not self.p95_ms > 0:
            raise ValueError(f"p95_ms is {self.p95_ms}: it must be above 0")
        if not 0 <= self.max_error_rate <= 1:
            raise ValueError(f"max_error_rate is {self.max_error_rate}: it is a share, 0 to 1")


@dataclass(frozen=True)
class Judged:
    """One request as it counts: `latency_ms` is infinite where it failed.

    `error` then says how, and `detail` what the endpoint said.
    """

    scheduled_s: float
    latency_ms: float
    error: str | None = None
    detail: str = ""
    variant: str = UNKNOWN
    reason: str = UNKNOWN
    release: str = UNKNOWN
    rows: int = 0
    correct: int = 0


@dataclass(frozen=True)
class Latency:
    """Quantiles in ms by nearest rank; infinite where that rank is a failed request."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Summary:
    """`answered_rate`: good answers a second, over the time until the last of them. `accuracy`: of rows answered."""

    requests: int
    answered: int
    failed: int
    error_rate: float
    errors: dict[str, int]
    first_error: str
    offered_rate: float
    answered_rate: float
    latency_ms: Latency
    client_lag_p95_ms: float
    rows: int
    accuracy: float | None
    variants: dict[str, int]
    reasons: dict[str, int]
    releases: dict[str, int]
    latency_ms_by_variant: dict[str, Latency]

    def met(self, objective: Objective) -> bool:
        return self.latency_ms.p95 <= objective.p95_ms and self.error_rate <= objective.max_error_rate


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of `values` does not exceed (nearest rank, so inf is harmless)."""
    ordered = sorted(values)
    # The product of two exact decimals can lie a hair above the integer that it stands for.
    rank = math.ceil(round(q * len(ordered), 9))
    return ordered[max(0, rank - 1)]


def judge(outcome: Outcome, output: str) -> Judged:
    """Whether a request was answered, 2xx with finite logits of its rows in the tensor `output`, and by whom."""
    reply = outcome.reply
    if reply is None or outcome.latency_ms is None:
        return Judged(outcome.scheduled_s, math.inf, outcome.failure or "no answer")
    variant, reason, release = (reply.headers.get(name, UNKNOWN) for name in ROUTE_HEADERS)
    error, correct, rows = None, 0, outcome.request.rows
    if 200 <= reply.status < 300:
        try:
            if reply.headers.get("content-type") == GRPC_CONTENT:
                logits_BC, told = read_grpc_answer(reply.body, output, rows)
                variant, reason, release = (_common(told.get(name, UNKNOWN)) for name in ROUTE_PARAMETERS)
            else:
                logits_BC = read_logits(reply.body, reply.headers, output, rows)
            correct = int((logits_BC.argmax(axis=1) == outcome.request.labels).sum())
        except AnswerError as broken:
            error = f"HTTP {reply.status}: {broken}"
    else:
        error = f"HTTP {reply.status}"
    return Judged(
        scheduled_s=outcome.scheduled_s,
        latency_ms=math.inf if error else outcome.latency_ms,
        error=error,
        detail=_printable(reply.body[:300]) if error else "",
        variant=variant,
        reason=reason,
        release=release,
        rows=0 if error else rows,
        correct=correct,
    )


def _common(values: str) -> str:
    """What all rows have in common, in the words of the HTTP headers."""
    different = set(values.split(","))
    return different.pop() if len(different) == 1 else "mixed"


def _printable(body: bytes) -> str:
    """What an endpoint said, without what could control a terminal."""
    return "".join(character if character.isprintable() else " " for character in body.decode("utf-8", "replace"))


def summarize(outcomes: Sequence[Outcome], judged: Sequence[Judged], duration_s: float) -> Summary:
    """`outcomes` and `judged` are parallel and hold at least one request."""
    good = [item for item in judged if item.error is None]
    errors = Counter(item.error for item in judged if item.error is not None)
    rows = sum(item.rows for item in good)
    span_s = max([duration_s, *(item.scheduled_s + item.latency_ms / 1e3 for item in good)])
    lags_ms = [(outcome.sent_s - outcome.scheduled_s) * 1e3 for outcome in outcomes if outcome.sent_s is not None]
    return Summary(
        requests=len(judged),
        answered=len(good),
        failed=len(judged) - len(good),
        error_rate=(len(judged) - len(good)) / len(judged),
        errors=dict(errors.most_common()),
        first_error=next((f"{item.error} {item.detail}".strip() for item in judged if item.error), ""),
        offered_rate=len(judged) / duration_s,
        answered_rate=len(good) / span_s,
        latency_ms=_latency(judged),
        client_lag_p95_ms=quantile(lags_ms, 0.95) if lags_ms else 0.0,
        rows=rows,
        accuracy=sum(item.correct for item in good) / rows if rows else None,
        variants=_count(item.variant for item in good),
        reasons=_count(item.reason for item in good),
        releases=_count(item.release for item in good),
        latency_ms_by_variant={
            variant: _latency([item for item in good if item.variant == variant])
            for variant in _count(item.variant for item in good)
        },
    )


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _latency(judged: Sequence[Judged]) -> Latency:
    values = sorted(item.latency_ms for item in judged)
    p50, p90, p95, p99 = (quantile(values, q) for q in (0.50, 0.90, 0.95, 0.99))
    return Latency(p50, p90, p95, p99, values[-1])
