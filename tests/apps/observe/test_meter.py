"""What is counted of requests and batches, and what reaches Prometheus of it."""

import time
from dataclasses import dataclass

import numpy as np
import pytest

from apps.observe.exporter import Exporter
from apps.observe.meter import NoMeter, ServeMeter
from apps.router import CONFIDENT, ESCALATED, Route

FALLBACK = Route("student", "fallback:overload")


@dataclass(frozen=True)
class Ran:
    """A batch as the Batcher tells of it."""

    rows: int = 1
    padded_rows: int = 1
    queue_s: tuple[float, ...] = (0.001,)
    batch_s: float = 0.001
    model_s: float = 0.001

    @property
    def jobs(self):
        return len(self.queue_s)

    @property
    def fill(self):
        return self.rows / 32


class Board:
    """A sink that adds and sets as Prometheus would show it."""

    def __init__(self):
        self.values = {}
        self.calls = 0

    def grow(self, name, description, tags, amount):
        assert amount > 0
        key = (name, frozenset(tags.items()))
        self.values[key] = self.values.get(key, 0) + amount
        self.calls += 1

    def set(self, name, description, tags, value):
        self.values[name, frozenset(tags.items())] = value
        self.calls += 1

    def read(self, name, **tags):
        found = [value for (n, has), value in self.values.items() if n == name and has >= tags.items()]
        assert found, f"no {name} with {tags} in {sorted({n for n, _ in self.values})}"
        return sum(found)


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def exporter(board):
    return Exporter(board)


@pytest.fixture
def meter(exporter):
    return ServeMeter("digits", exporter)


def test_requests_are_counted_by_release_route_protocol_and_status(meter, exporter, board):
    meter.record("7", "student", "confident", 200, 3.0)
    meter.record("7", "student", "confident", 200, 4.0, protocol="grpc")
    meter.record("", "", "", 503, 1.0)
    exporter.flush()
    name = "tandem_requests"
    assert board.read(name, model="digits") == 3
    assert board.read(name, version="7", variant="student", reason="confident", protocol="grpc", status="200") == 1
    assert board.read(name, version="", status="503") == 1


def test_a_latency_lands_in_every_bucket_whose_edge_it_does_not_pass(meter, exporter, board):
    for latency_ms in (9.0, 10.0, 49.0, 9_000.0):
        meter.record("7", "teacher", "escalated", 200, latency_ms)
    exporter.flush()
    name = "tandem_request_duration_seconds"
    by_edge = {edge: board.read(f"{name}_bucket", le=edge) for edge in ("0.0075", "0.01", "0.05", "5", "+Inf")}
    assert by_edge == {"0.0075": 0, "0.01": 2, "0.05": 3, "5": 3, "+Inf": 4}
    assert board.read(f"{name}_count") == 4
    assert board.read(f"{name}_sum") == pytest.approx(9.068)


def test_only_what_changed_is_told_again_and_a_refresh_tells_all_gauges(meter, exporter, board):
    meter.record("7", "student", "confident", 200, 3.0)
    meter.began()
    exporter.flush()
    told, values = board.calls, dict(board.values)
    exporter.flush()
    assert board.calls == told
    exporter.flush(refresh=True)
    assert board.calls > told
    assert board.values == values, "a refresh must not add to a counter"


def test_counters_grow_by_what_came_since_the_last_flush(meter, exporter, board):
    for _ in range(3):
        meter.record("7", "student", "confident", 200, 3.0)
        exporter.flush()
    assert board.read("tandem_requests") == 3


def test_rows_are_counted_by_route_also_in_a_mixed_request(meter, exporter, board):
    meter.routes("7", [CONFIDENT, ESCALATED, CONFIDENT, ESCALATED, ESCALATED])
    meter.routes("7", (FALLBACK,))
    meter.routes("7", ())
    exporter.flush()
    assert board.read("tandem_rows", reason="confident") == 2
    assert board.read("tandem_rows", variant="teacher", reason="escalated") == 3
    assert board.read("tandem_rows", variant="student", reason="fallback:overload") == 1


def test_routes_that_are_equal_but_not_the_same_object_are_still_counted(meter, exporter, board):
    meter.routes("7", [Route("student", "confident"), Route("student", "confident"), ESCALATED])
    exporter.flush()
    assert board.read("tandem_rows", reason="confident") == 2
    assert board.read("tandem_rows", reason="escalated") == 1


def test_confidences_are_counted_by_bucket_at_the_flush(meter, exporter, board):
    meter.confidence("7", np.array([0.05, 0.9, 0.91], np.float32))
    meter.confidence("7", np.array([1.0], np.float64))
    meter.confidence("8", np.array([np.nan]))
    exporter.flush()
    name = "tandem_student_confidence"
    edges = {edge: board.read(f"{name}_bucket", version="7", le=edge) for edge in ("0.1", "0.85", "0.925", "1")}
    assert edges == {"0.1": 1, "0.85": 1, "0.925": 3, "1": 4}
    assert board.read(f"{name}_sum", version="7") == pytest.approx(2.86)
    # A confidence that is no number is one that the threshold was not passed with; it is counted, above all edges.
    assert board.read(f"{name}_count", version="8") == 1


def test_a_batch_is_counted_by_rows_fill_and_stage(meter, exporter, board):
    on_batch = meter.batches("7", "teacher")
    on_batch(Ran(rows=3, padded_rows=4, queue_s=(0.003, 0.005), batch_s=0.03, model_s=0.02))
    on_batch(Ran(rows=32, padded_rows=32, queue_s=(0.001,) * 32, batch_s=0.1, model_s=0.09))
    exporter.flush()
    tags = {"version": "7", "role": "teacher"}
    assert board.read("tandem_batch_rows_sum", **tags) == 35
    assert board.read("tandem_batch_rows_count", **tags) == 2
    assert board.read("tandem_batch_rows_bucket", le="4", **tags) == 1
    assert board.read("tandem_batch_padded_rows", **tags) == 36
    assert board.read("tandem_batch_fill_bucket", le="0.125", **tags) == 1
    assert board.read("tandem_batch_fill_sum", **tags) == pytest.approx(1 + 3 / 32)
    assert board.read("tandem_queue_duration_seconds_count", **tags) == 34
    assert board.read("tandem_queue_duration_seconds_sum", **tags) == pytest.approx(2 * 0.004 + 32 * 0.001)
    assert board.read("tandem_batch_duration_seconds_sum", **tags) == pytest.approx(0.13)
    assert board.read("tandem_model_duration_seconds_sum", **tags) == pytest.approx(0.11)


def test_the_breaker_is_in_one_state_at_a_time_and_asked_at_each_flush(meter, exporter, board):
    state = "closed"
    meter.watch_breaker("7", lambda: state)
    for state in ("closed", "open", "half-open"):
        exporter.flush()
        assert board.read("tandem_breaker_state", version="7") == 1
        assert board.read("tandem_breaker_state", version="7", state=state) == 1


def test_the_queue_is_asked_at_each_flush(meter, exporter, board):
    waiting = [1, 2]
    meter.watch_queue("7", "teacher", lambda: len(waiting))
    for expected in (2, 1, 0):
        exporter.flush()
        assert board.read("tandem_queue_rows", version="7", role="teacher") == expected
        del waiting[:1]


def test_requests_in_flight_and_shed_are_counted(meter, exporter, board):
    meter.began()
    meter.began()
    meter.ended()
    meter.shed("overload")
    meter.shed("expired", "7", "teacher")
    exporter.flush()
    assert board.read("tandem_requests_in_flight") == 1
    assert board.read("tandem_shed", reason="overload", role="ingress") == 1
    assert board.read("tandem_shed", reason="expired", version="7", role="teacher") == 1
    meter.ended()
    exporter.flush()
    assert board.read("tandem_requests_in_flight") == 0


def test_two_models_are_kept_apart(meter, exporter, board):
    ServeMeter("news", exporter).record("7", "student", "confident", 200, 3.0)
    meter.record("7", "student", "confident", 200, 3.0)
    exporter.flush()
    assert board.read("tandem_requests", model="news") == 1
    assert board.read("tandem_requests") == 2


def test_the_thread_flushes_and_close_flushes_the_rest(meter, exporter, board):
    exporter.start()
    meter.record("7", "student", "confident", 200, 3.0)
    exporter.close()
    assert board.read("tandem_requests") == 1


def test_a_sink_that_fails_does_not_end_the_exporter(caplog):
    class Broken:
        def grow(self, *args):
            raise RuntimeError("the agent is gone")

        set = grow

    exporter = Exporter(Broken())
    ServeMeter("digits", exporter).record("7", "student", "confident", 200, 3.0)
    exporter.start()
    exporter.close()
    assert "could not be exported" in caplog.text


def test_statistics_have_the_shape_that_triton_gives_them(meter):
    before_ms = time.time() * 1e3
    on_batch = meter.batches("7", "student")
    on_batch(Ran(rows=3, padded_rows=4, queue_s=(0.0005, 0.0015), model_s=0.003))
    for rows in (1, 2):
        meter.record("7", "student", "confident", 200, 10.0, parse_ms=1.0, encode_ms=2.0)
        meter.routes("7", (CONFIDENT,) * rows)
    (entry,) = meter.statistics(["7"])["model_stats"]
    assert (entry["name"], entry["version"]) == ("digits", "7")
    assert (entry["inference_count"], entry["execution_count"]) == (3, 1)
    assert entry["last_inference"] == pytest.approx(before_ms, abs=60_000)
    stats = entry["inference_stats"]
    assert stats["success"] == {"count": 2, "ns": pytest.approx(20e6)}
    assert stats["queue"] == {"count": 2, "ns": pytest.approx(2e6)}
    assert stats["compute_input"] == {"count": 2, "ns": pytest.approx(2e6)}
    assert stats["compute_infer"] == {"count": 2, "ns": pytest.approx(12e6, abs=2)}
    assert stats["compute_output"] == {"count": 2, "ns": pytest.approx(4e6)}
    assert stats["fail"] == {"count": 0, "ns": 0}
    assert entry["batch_stats"][0]["batch_size"] == 3
    assert entry["batch_stats"][0]["compute_infer"] == {"count": 1, "ns": pytest.approx(3e6)}


def test_failures_before_a_release_was_found_are_the_first_ones(meter):
    meter.record("", "", "", 503, 5.0)
    meter.record("8", "", "", 504, 5.0)
    meter.record("", "", "", 400, 5.0)
    first, second = meter.statistics(["7", "8"])["model_stats"]
    assert first["inference_stats"]["fail"] == {"count": 1, "ns": pytest.approx(5e6)}
    assert second["inference_stats"]["fail"]["count"] == 1
    (alone,) = meter.statistics(["7", "8"], "8")["model_stats"]
    assert alone == second


def test_no_meter_takes_every_call():
    meter = NoMeter()
    meter.record("7", "student", "confident", 200, 3.0)
    meter.began()
    meter.ended()
    meter.routes("7", (CONFIDENT,))
    meter.confidence("7", np.ones(1))
    meter.batches("7", "student")(Ran())
    meter.shed("overload")
    meter.watch_breaker("7", lambda: "open")
    meter.watch_queue("7", "student", lambda: 1)
    assert meter.statistics(["7"]) == {"model_stats": []}


def test_all_of_it_costs_a_request_a_few_microseconds(meter):
    """15 us is the budget; the limit here leaves room for a slow or busy machine."""
    on_batch = meter.batches("7", "student")
    batch, confidence_B, routes = Ran(), np.array([0.97]), (CONFIDENT,)
    rounds_us = []
    for _ in range(5):
        started = time.thread_time()
        for _ in range(2_000):
            meter.began()
            on_batch(batch)
            meter.confidence("7", confidence_B)
            meter.routes("7", routes)
            meter.record("7", "student", "confident", 200, 3.0, "http", 0.1, 0.1)
            meter.ended()
        rounds_us.append((time.thread_time() - started) / 2_000 * 1e6)
    assert min(rounds_us) < 45, rounds_us
