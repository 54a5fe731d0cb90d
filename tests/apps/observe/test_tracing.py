"""Spans across processes, read back from memory."""

import asyncio
import sys
import time

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pydantic import ValidationError

from apps.observe.tracing import NoTracing, OtelTracing, TraceArgs, open_tracing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"


def header(sampled):
    return {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-{'01' if sampled else '00'}"}


class Traced:
    """Two processes, each with a memory that it exports to."""

    def __init__(self, ratio, draw=lambda: 0.5):
        self.memories = (InMemorySpanExporter(), InMemorySpanExporter())
        self.ingress = OtelTracing(self.memories[0], ratio, "tandem", "ingress", draw)
        self.teacher = OtelTracing(self.memories[1], ratio, "tandem", "teacher", draw)

    def finished(self):
        self.ingress.close()
        self.teacher.close()
        return [span for memory in self.memories for span in memory.get_finished_spans()]

    def spans(self):
        return {span.name: span for span in self.finished()}


async def one_request(traced, headers):
    with traced.ingress.request("infer", headers):
        with traced.ingress.step("student", rows=2):
            await asyncio.sleep(0)
        with traced.ingress.step("teacher", rows=1):
            carried = traced.ingress.carried()
            with traced.teacher.serve("teacher.infer", [carried], batch_rows=8):
                await asyncio.sleep(0)
        traced.ingress.note(reason="escalated")
    return carried


def test_the_spans_of_a_request_are_one_tree_across_processes():
    traced = Traced(ratio=1.0)
    asyncio.run(one_request(traced, {}))
    spans = traced.spans()
    root, student, call, served = (spans[name] for name in ("infer", "student", "teacher", "teacher.infer"))
    assert root.parent is None
    assert student.parent.span_id == call.parent.span_id == root.context.span_id
    assert served.parent.span_id == call.context.span_id
    assert served.parent.is_remote
    assert {span.context.trace_id for span in spans.values()} == {root.context.trace_id}
    assert dict(root.attributes) == {"reason": "escalated"}
    assert dict(served.attributes) == {"batch_rows": 8}
    assert (root.resource.attributes["tandem.role"], served.resource.attributes["tandem.role"]) == (
        "ingress",
        "teacher",
    )


def test_a_traceparent_is_continued_whatever_the_ratio():
    traced = Traced(ratio=0.0)
    asyncio.run(one_request(traced, header(sampled=True)))
    root = traced.spans()["infer"]
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)


def test_a_traceparent_that_is_not_sampled_is_left_alone_whatever_the_ratio():
    traced = Traced(ratio=1.0)
    assert asyncio.run(one_request(traced, header(sampled=False))) is None
    assert traced.spans() == {}


@pytest.mark.parametrize("value", ["", "nonsense", f"00-{'0' * 32}-{PARENT_ID}-01", "é" * 40, "00-" * 1000])
def test_a_traceparent_that_nobody_can_read_counts_as_none(value):
    traced = Traced(ratio=1.0)
    asyncio.run(one_request(traced, {"traceparent": value}))
    assert traced.spans()["infer"].parent is None


def test_chance_decides_where_no_traceparent_came():
    draws = iter([0.05, 0.1, 0.99])
    traced = Traced(ratio=0.1, draw=lambda: next(draws))
    carried = [asyncio.run(one_request(traced, {})) for _ in range(3)]
    assert [c is not None for c in carried] == [True, False, False]


def test_each_request_of_a_batch_gets_its_own_span_in_the_teacher():
    traced = Traced(ratio=1.0)
    carried = []
    for _ in range(2):
        with traced.ingress.request("infer", {}):
            carried.append(traced.ingress.carried())
    with traced.teacher.serve("teacher.infer", [carried[0], None, carried[1]], rows=3):
        pass
    finished = traced.finished()
    roots = {span.context.trace_id: span.context.span_id for span in finished if span.name == "infer"}
    served = {span.context.trace_id: span.parent.span_id for span in finished if span.name == "teacher.infer"}
    assert len(roots) == 2
    assert served == roots


def test_requests_at_the_same_time_do_not_mix():
    traced = Traced(ratio=1.0)

    async def both():
        await asyncio.gather(one_request(traced, {}), one_request(traced, header(sampled=True)))

    asyncio.run(both())
    finished = traced.finished()
    assert len(finished) == 8
    by_id = {span.context.span_id: span for span in finished}
    for span in finished:
        if span.parent is not None and span.parent.span_id in by_id:
            assert by_id[span.parent.span_id].context.trace_id == span.context.trace_id


def test_an_error_marks_the_span_and_goes_on():
    traced = Traced(ratio=1.0)
    with pytest.raises(RuntimeError, match="broken"), traced.ingress.request("infer", {}):
        raise RuntimeError("broken")
    assert traced.spans()["infer"].status.status_code is StatusCode.ERROR


def test_steps_outside_of_a_traced_request_make_no_spans():
    traced = Traced(ratio=0.0)
    with traced.ingress.step("student"):
        traced.ingress.note(rows=1)
        assert traced.ingress.carried() is None
    assert traced.spans() == {}


def test_an_exporter_that_hangs_holds_up_no_request():
    class Slow(InMemorySpanExporter):
        def export(self, spans):
            time.sleep(1.5)
            return SpanExportResult.SUCCESS

    tracing = OtelTracing(Slow(), 1.0, "tandem", "ingress")
    started = time.perf_counter()
    for _ in range(1_000):
        with tracing.request("infer", {}):
            pass
    assert time.perf_counter() - started < 1.5
    tracing.close()


def test_off_is_nothing_and_costs_next_to_nothing():
    tracing = open_tracing(None, "ingress")
    assert isinstance(tracing, NoTracing)
    started = time.thread_time()
    for _ in range(10_000):
        with tracing.request("infer", {}), tracing.step("student"):
            tracing.carried()
    assert (time.thread_time() - started) / 10_000 < 10e-6
    tracing.close()


def test_a_missing_exporter_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match=r"pip install opentelemetry-exporter-otlp-proto-http"):
        open_tracing(TraceArgs(endpoint="http://127.0.0.1:4318/v1/traces"), "ingress")


@pytest.mark.parametrize("args", [{"endpoint": "localhost:4318"}, {"endpoint": "http://x", "sample_ratio": 1.5}, {}])
def test_wrong_settings_are_refused(args):
    with pytest.raises(ValidationError):
        TraceArgs(**args)
