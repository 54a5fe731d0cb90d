"""Tracing: OpenTelemetry spans of a request, from the ingress through the router to a model in another replica.

Off by default, and then every call here does nothing. A request is traced when its `traceparent` header says so, or, if
it has none, by chance.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanKind

Attribute = str | int | float | bool


class TraceArgs(BaseModel):
    """`trace:` in serve_config.yaml. `endpoint` takes OTLP over HTTP: http://127.0.0.1:4318/v1/traces.

    `sample_ratio` of the requests that bring no `traceparent` are traced; one that brings it has been decided on.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    endpoint: str = Field(pattern=r"^https?://\S+$")
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    service_name: str = Field(default="tandem", min_length=1, max_length=100)


class Tracing(Protocol):
    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """The span of a whole request; the names of `headers` are in lower case."""
        ...

    def step(self, name: str, **attributes: Attribute) -> AbstractContextManager[object]:
        """A part of the request that this task works on; nothing where that is not traced."""
        ...

    def note(self, **attributes: Attribute) -> None:
        """Attributes of the innermost span of this task."""
        ...

    def carried(self) -> str | None:
        """What a call to another process takes along (a `traceparent`); None where the request is not traced."""
        ...

    def serve(
        self, name: str, carried: Sequence[str | None], **attributes: Attribute
    ) -> AbstractContextManager[object]:
        """In the called process: one span for each request that `carried` says is traced, all of the same time."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


_NOTHING: AbstractContextManager[object] = nullcontext()


class NoTracing:
    """Traces nothing."""

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        return _NOTHING

    def step(self, name: str, **attributes: Attribute) -> AbstractContextManager[object]:
        return _NOTHING

    def note(self, **attributes: Attribute) -> None:
        return

    def carried(self) -> str | None:
        return None

    def serve(
        self, name: str, carried: Sequence[str | None], **attributes: Attribute
    ) -> AbstractContextManager[object]:
        return _NOTHING

    def close(self) -> None:
        return


def open_tracing(args: TraceArgs | None, role: str) -> Tracing:
    """`role` names the deployment in every span. Raises ValueError where the exporter is not installed."""
    if args is None:
        return NoTracing()
    try:
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        raise ValueError(
            f"trace.endpoint is {args.endpoint}, but the exporter is not installed: "
            "pip install opentelemetry-exporter-otlp-proto-http, or leave `trace` out"
        ) from error
    return OtelTracing(exporter.OTLPSpanExporter(endpoint=args.endpoint), args.sample_ratio, args.service_name, role)


class OtelTracing:
    """Spans go to `exporter` from a thread of their own; what it cannot take is dropped, no request waits for it."""

    def __init__(
        self,
        exporter: "SpanExporter",
        sample_ratio: float,
        service_name: str,
        role: str,
        draw: Callable[[], float] = random.random,
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        # Without anything in it, so that no span of an earlier request of this task becomes a parent.
        self._nowhere = Context()
        self._propagator = TraceContextTextMapPropagator()
        # A provider of our own: the process-wide one belongs to whoever set it first.
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service_name, "tandem.role": role}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tandem")
        self._sample_ratio = sample_ratio
        self._draw = draw

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        context = self._nowhere
        if "traceparent" in headers:
            context = self._propagator.extract(dict(headers), context)
        parent = self._trace.get_current_span(context).get_span_context()
        # Not valid: none was given, or one that nobody can read.
        traced = parent.trace_flags.sampled if parent.is_valid else self._draw() < self._sample_ratio
        return self._span(name, context, self._trace.SpanKind.SERVER, {}) if traced else _NOTHING

    def step(self, name: str, **attributes: Attribute) -> AbstractContextManager[object]:
        if not self._trace.get_current_span().is_recording():
            return _NOTHING
        return self._span(name, None, self._trace.SpanKind.INTERNAL, attributes)

    def note(self, **attributes: Attribute) -> None:
        self._trace.get_current_span().set_attributes(attributes)

    def carried(self) -> str | None:
        if not self._trace.get_current_span().is_recording():
            return None
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def serve(
        self, name: str, carried: Sequence[str | None], **attributes: Attribute
    ) -> AbstractContextManager[object]:
        parents = [parent for parent in carried if parent is not None]
        return self._serve(name, parents, attributes) if parents else _NOTHING

    def close(self) -> None:
        self._provider.shutdown()

    @contextmanager
    def _serve(self, name: str, parents: Sequence[str], attributes: Mapping[str, Attribute]) -> Iterator[None]:
        with ExitStack() as spans:
            for parent in parents:
                context = self._propagator.extract({"traceparent": parent}, self._nowhere)
                spans.enter_context(self._span(name, context, self._trace.SpanKind.SERVER, attributes))
            yield

    def _span(
        self, name: str, context: "Context | None", kind: "SpanKind", attributes: Mapping[str, Attribute]
    ) -> AbstractContextManager[object]:
        return self._tracer.start_as_current_span(name, context, kind, attributes)
