"""Account: what one request is told of to the meter, the request log and the trace, whatever protocol brought it."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from apps.observe.meter import Meter, NoMeter
from apps.observe.request_log import Entry, NoRequestLog, RequestIds, RequestLog
from apps.observe.tracing import NoTracing, Tracing
from apps.router import Answer


@dataclass(frozen=True)
class Books:
    """Where the requests of one model are written down. `ids`, `log` and `tracing` are the whole replica's."""

    model: str
    meter: Meter = field(default_factory=NoMeter)
    log: RequestLog = field(default_factory=NoRequestLog)
    tracing: Tracing = field(default_factory=NoTracing)
    ids: RequestIds = field(default_factory=RequestIds)


class Account:
    """From a request's last byte to its answer; exactly one of `answered` and `failed` ends it."""

    __slots__ = ("_books", "_headers", "_protocol", "_started", "parsed_s", "request_id")

    def __init__(self, books: Books, protocol: str, headers: Mapping[str, str]) -> None:
        """The names of `headers` are in lower case."""
        self._books = books
        self._protocol = protocol
        self._headers = headers
        self._started = time.perf_counter()
        self.parsed_s = 0.0
        self.request_id = books.ids(headers)
        books.meter.began()

    def span(self) -> AbstractContextManager[object]:
        """The request's span, where it is traced."""
        return self._books.tracing.request(f"{self._books.model} infer", self._headers)

    def parsed(self) -> None:
        """Its tensors are read."""
        self.parsed_s = time.perf_counter() - self._started

    def answered(self, answer: Answer, encode_s: float = 0.0) -> None:
        """It got `answer`, the writing of which took `encode_s`."""
        meter, release = self._books.meter, str(answer.release)
        meter.routes(release, answer.routes)
        if answer.confidence is not None:
            meter.confidence(release, answer.confidence)
        self._end(release, answer.variant, answer.reason, 200, len(answer.routes), encode_s)

    def failed(self, status: int) -> None:
        """It got this HTTP status; 499 where the client went away."""
        self._end("", "", "", status, 0, 0.0)

    def _end(self, release: str, variant: str, reason: str, status: int, rows: int, encode_s: float) -> None:
        latency_ms, parse_ms = (time.perf_counter() - self._started) * 1e3, self.parsed_s * 1e3
        books, protocol = self._books, self._protocol
        books.meter.ended()
        books.meter.record(release, variant, reason, status, latency_ms, protocol, parse_ms, encode_s * 1e3)
        if not isinstance(books.log, NoRequestLog):
            books.log.write(
                Entry(
                    *(self.request_id, books.model, release, variant, reason, protocol, status, rows),
                    latency_ms,
                    parse_ms,
                )
            )
