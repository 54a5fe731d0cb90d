"""What happened between two readings of Prometheus text."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from loadtests.metrics import MetricsError, Window, discover, fetch, level, parse

BEFORE = """# HELP ray_tandem_requests_total Requests.
# TYPE ray_tandem_requests_total counter
ray_tandem_requests_total{replica="a",variant="student",status="200"} 100.0
ray_tandem_requests_total{replica="b",variant="student",status="200"} 50.0
# TYPE ray_tandem_request_duration_seconds_bucket gauge
ray_tandem_request_duration_seconds_bucket{replica="a",le="0.01"} 10.0
ray_tandem_request_duration_seconds_bucket{replica="a",le="0.02"} 10.0
ray_tandem_request_duration_seconds_bucket{replica="a",le="+Inf"} 10.0
# TYPE ray_tandem_breaker_state gauge
ray_tandem_breaker_state{replica="a",state="open"} 1.0
ray_tandem_breaker_state{replica="b",state="open"} 1.0
"""
AFTER = """# TYPE ray_tandem_requests_total counter
ray_tandem_requests_total{replica="a",variant="student",status="200"} 160.0
ray_tandem_requests_total{replica="b",variant="student",status="200"} 20.0
ray_tandem_requests_total{replica="c",variant="teacher",status="200"} 7.0
ray_tandem_requests_total{replica="c",variant="",status="503"} 3.0
# TYPE ray_tandem_request_duration_seconds_bucket gauge
ray_tandem_request_duration_seconds_bucket{replica="a",le="0.01"} 20.0
ray_tandem_request_duration_seconds_bucket{replica="a",le="0.02"} 100.0
ray_tandem_request_duration_seconds_bucket{replica="a",le="+Inf"} 110.0
ray_tandem_request_duration_seconds_sum{replica="a"} 1.5
ray_tandem_request_duration_seconds_count{replica="a"} 100.0
"""
REQUESTS = "ray_tandem_requests_total"
DURATION = "ray_tandem_request_duration_seconds"


@pytest.fixture
def window():
    return Window(parse(BEFORE, 10.0), parse(AFTER, 20.0))


def test_a_rate_adds_replicas_and_takes_a_lower_counter_for_a_new_start(window):
    assert window.increase(REQUESTS) == 60 + 20 + 7 + 3
    assert window.rate(REQUESTS, status="200") == pytest.approx(8.7)
    assert window.rate(REQUESTS, status="404") == 0


def test_an_increase_is_split_by_a_label(window):
    assert window.by(REQUESTS, "variant", status="200") == {"student": 80, "teacher": 7}


def test_a_quantile_is_that_of_the_window_and_not_of_all_time(window):
    # 100 came: 10 up to 10 ms, 80 up to 20 ms, 10 above.
    assert window.quantile(0.5, DURATION) == pytest.approx(0.015)
    assert window.quantile(0.05, DURATION) == pytest.approx(0.005)
    assert window.quantile(0.95, DURATION) == 0.02, "above the highest edge nothing better is known"
    assert window.quantile(0.5, DURATION, replica="b") is None


def test_a_mean_is_sum_by_count(window):
    assert window.mean(DURATION) == pytest.approx(0.015)
    assert window.mean("ray_tandem_batch_rows") is None


def test_a_level_adds_the_series_of_a_gauge():
    snapshot = parse(BEFORE, 0.0)
    assert level(snapshot, "ray_tandem_breaker_state", state="open") == 2
    assert level(snapshot, "ray_tandem_breaker_state", state="closed") == 0


def test_text_that_is_none_is_refused():
    with pytest.raises(MetricsError, match="not Prometheus' text format"):
        parse("<html>no</html>", 0.0)


class Agent(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BEFORE.encode())

    def log_message(self, *args):
        return


def test_it_is_fetched_from_where_rays_file_says(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = tmp_path / "prom_metrics_service_discovery.json"
        path.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{server.server_port}"]}]))
        snapshot = fetch(discover(path))
        server.shutdown()
    assert level(snapshot, REQUESTS) == 150


def test_what_does_not_answer_is_named(tmp_path):
    with pytest.raises(MetricsError, match=r"no metrics from http://127\.0\.0\.1:1/metrics"):
        fetch(["http://127.0.0.1:1/metrics"])
    with pytest.raises(MetricsError, match=r"missing\.json is no service discovery file"):
        discover(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(MetricsError, match=r"other\.json is no service discovery file"):
        discover(tmp_path / "other.json")
