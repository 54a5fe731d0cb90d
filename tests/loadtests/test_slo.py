import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests import slo

pytestmark = pytest.mark.slow


def run(endpoint: Any, out: Path, *more: str, rate: int = 60, duration: float = 1.0) -> tuple[int, dict[str, Any]]:
    argv = ["--url", endpoint.url, "--rate", str(rate), "--duration", str(duration), "--warmup", "0.1"]
    code = slo.main([*argv, "--p95-ms", "1000", "--out", str(out), *more])
    file = out / "slo.json"
    return code, json.loads(file.read_text()) if file.exists() else {}


def test_objective_met_exits_0_and_says_the_rate_the_routes_and_the_accuracy(
    endpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.delay_s = 0.01
    code, facts = run(endpoint, tmp_path, "--arrivals", "uniform")
    assert (code, facts["met"]) == (0, True)
    summary = facts["summary"]
    assert summary["requests"] == summary["answered"] == 60
    assert summary["answered_rate"] == pytest.approx(60, rel=0.3)
    assert 10 <= summary["latency_ms"]["p50"] < 200
    assert summary["accuracy"] == 1.0
    assert summary["variants"]["student"] / 60 == pytest.approx(0.75, abs=0.05)
    assert set(summary["reasons"]) == {"confident", "deferred"}
    assert summary["releases"] == {"digits.endpoint/1": 60}
    printed = capsys.readouterr()
    assert "MET" in printed.out and "p95 ms" in printed.out
    assert "sent" in printed.err


def test_report_is_complete_and_needs_no_other_file(endpoint: Any, tmp_path: Path) -> None:
    _, facts = run(endpoint, tmp_path, duration=0.5)
    assert facts["machine"]["cpus"] >= 1 and facts["versions"]["aiohttp"]
    assert facts["command"].startswith("python -m loadtests.slo --url")
    page = (tmp_path / "slo.html").read_text()
    figures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(figures) == 4
    assert all(b64decode(figure).startswith(b"\x89PNG") for figure in figures)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "Objective met" in page and "digits.endpoint/1" in page
    (window,) = facts["timeline"]
    assert window["requests"] == window["good"] == facts["summary"]["requests"]
    assert facts["goodput"] == pytest.approx(window["good"] / 0.5)


def test_what_the_endpoint_says_is_shown_as_text(endpoint: Any, tmp_path: Path) -> None:
    endpoint.release = "<script>alert(1)</script>"
    endpoint.variant = "$x^{$ <b>"
    code, facts = run(endpoint, tmp_path, duration=0.3)
    assert code == 0
    assert facts["summary"]["variants"] == {"$x^{$ <b>": facts["summary"]["requests"]}
    page = (tmp_path / "slo.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page and "<b>" not in page


def test_stalled_server_misses_the_objective_though_only_one_request_was_slow(endpoint: Any, tmp_path: Path) -> None:
    endpoint.serial = True
    endpoint.delay_s = 0.002
    endpoint.stall = (60, 0.5)
    code, facts = run(endpoint, tmp_path, "--p95-ms", "150", duration=1.5)
    # A client that waits for each answer would have one late request in 90, and a p95 of a few milliseconds.
    assert code == 1
    assert facts["summary"]["failed"] == 0
    assert facts["summary"]["latency_ms"]["p50"] < 150 < facts["summary"]["latency_ms"]["p95"]


def test_errors_are_violations_unless_the_objective_admits_them(endpoint: Any, tmp_path: Path) -> None:
    endpoint.fail_every = 50
    code, facts = run(endpoint, tmp_path / "strict", "--arrivals", "uniform", duration=0.8)
    assert code == 1
    assert facts["summary"]["errors"] == {"HTTP 503": facts["summary"]["failed"]}
    assert facts["summary"]["failed"] == 1
    assert "told to fail" in facts["summary"]["first_error"]
    code, _ = run(endpoint, tmp_path / "lenient", "--arrivals", "uniform", "--max-error-rate", "0.04", duration=0.8)
    assert code == 0


def test_failed_requests_count_as_infinitely_late(endpoint: Any, tmp_path: Path) -> None:
    endpoint.fail_every = 10
    code, facts = run(endpoint, tmp_path, "--max-error-rate", "1", duration=0.5)
    assert code == 1
    assert facts["summary"]["latency_ms"]["p50"] < 1000
    assert facts["summary"]["latency_ms"]["p95"] is None


def test_report_is_written_when_every_request_fails(endpoint: Any, tmp_path: Path) -> None:
    endpoint.status = 500
    code, facts = run(endpoint, tmp_path, duration=0.3)
    assert code == 1
    assert facts["summary"]["answered"] == 0 and facts["summary"]["accuracy"] is None
    assert "Objective missed" in (tmp_path / "slo.html").read_text()


def test_answer_without_the_rows_that_were_sent_is_an_error(endpoint: Any, tmp_path: Path) -> None:
    endpoint.output_shape = [10, 1]
    code, facts = run(endpoint, tmp_path, duration=0.3)
    assert code == 1
    assert "shape [10, 1] for 1 rows sent" in next(iter(facts["summary"]["errors"]))


def test_options_reach_the_endpoint(endpoint: Any, tmp_path: Path) -> None:
    options = ("--mode", "teacher", "--deadline-ms", "40", "--batch", "4", "--json")
    code, facts = run(endpoint, tmp_path, *options, duration=0.3)
    assert code == 0
    head = endpoint.heads[-1]
    assert head["parameters"] == {"mode": "teacher", "deadline_ms": 40.0}
    assert head["inputs"][0]["shape"] == [4, 1, 8, 8] and len(head["inputs"][0]["data"]) == 256
    assert facts["summary"]["rows"] == 4 * facts["summary"]["requests"]


def test_own_inputs_are_sent(endpoint: Any, tmp_path: Path) -> None:
    from loadtests.samples import bundled_digits

    digits = bundled_digits()
    np.savez(tmp_path / "set.npz", inputs=digits.inputs[:20], labels=(digits.labels[:20] + 1) % 10)
    code, facts = run(endpoint, tmp_path, "--inputs", str(tmp_path / "set.npz"), duration=0.3)
    assert (code, facts["samples"], facts["inputs"]) == (0, 20, "set.npz")
    assert facts["summary"]["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--url", "http://192.0.2.7:8000"], "--allow-remote"),
        (["--url", "http://example.org"], "--allow-remote"),
        (["--url", "127.0.0.1:8000"], "http://127.0.0.1:8000"),
        (["--url", "http://127.0.0.1:9"], "is it running?"),
        (["--model", "cats"], "--model"),
        (["--rate", "0"], "rate is 0"),
        (["--p95-ms", "nan"], "p95_ms is nan"),
        (["--batch", "0"], "batch is 0"),
        (["--inputs", "absent.npz"], "absent.npz"),
    ],
)
def test_unusable_call_exits_2_and_says_what_to_do(
    endpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    code, facts = run(endpoint, tmp_path, *more)
    assert (code, facts) == (2, {})
    assert message in capsys.readouterr().err
    assert not endpoint.heads


def test_refused_requests_exit_2_before_the_clock_starts(
    endpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.status = 400
    code, _ = run(endpoint, tmp_path)
    assert code == 2
    assert "told to fail" in capsys.readouterr().err
    assert len(endpoint.heads) == 1


def test_model_without_bundled_inputs_asks_for_a_file(
    endpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.input_shape = [-1, 3, 32, 32]
    code, _ = run(endpoint, tmp_path)
    assert code == 2
    assert "python -m training.task digits --split report --save FILE.npz" in capsys.readouterr().err


def test_arguments_that_cannot_be_parsed_exit_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        slo.main(["--rate", "many", "--duration", "1", "--p95-ms", "50"])
    assert stopped.value.code == 2


def test_shape_is_sent_and_reported(endpoint: Any, tmp_path: Path) -> None:
    code, facts = run(
        *(endpoint, tmp_path, "--arrivals", "uniform", "--shape", "step", "--base-rate", "20"), rate=80, duration=1.5
    )
    assert code == 0
    assert facts["summary"]["requests"] == pytest.approx(20 * 0.5 + 80 * 0.5 + 20 * 0.5, abs=2)
    assert (facts["plan"]["shape"], facts["plan"]["base_rate"]) == ("step", 20)
    assert "step from 20 to 80 requests/s" in (tmp_path / "slo.html").read_text()
