import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from loadtests.cascade import MET, MISSED, UNUSABLE, Size, Turn, _routes, main, markdown
from loadtests.transports import Reply


def _run(endpoint: Any, out: Path, *more: str) -> int:
    few = ["--clients", "1", "--batches", "1", "4", "--rows", "20", "--rounds", "3"]
    return main(["--url", endpoint.url, "--out", str(out), *few, *more])


def test_a_row_s_time_is_told_beside_that_of_its_teacher(endpoint: Any, tmp_path: Path) -> None:
    endpoint.modes = {"cascade": 0.01, "teacher": 0.05, "student": 0.001}
    assert _run(endpoint, tmp_path) == MET
    sizes = json.loads((tmp_path / "cascade-http-digits.json").read_text())["sizes"]
    assert [size["batch"] for size in sizes] == [1, 4]
    for size in sizes:
        by_mode = {mode: [turn for turn in size["turns"] if turn["mode"] == mode] for mode in endpoint.modes}
        assert {mode: len(turns) for mode, turns in by_mode.items()} == dict.fromkeys(endpoint.modes, 3)
        for mode, turns in by_mode.items():
            assert all(turn["row_ms"] >= 1000 * endpoint.modes[mode] / size["batch"] for turn in turns)
            rows = {1: 20, 4: 40}[size["batch"]]  # ten requests at least
            assert all(turn["rows"] == turn["correct"] == rows for turn in turns)
            assert mode == "cascade" or all(turn["answered_by"] == {mode: rows} for turn in turns)
    page = (tmp_path / "cascade-http-digits.md").read_text()
    assert page.count("at most 50%: met") == 2
    assert "python -m loadtests.cascade" in page
    assert _run(endpoint, tmp_path, "--limit", "0.01") == MISSED


@pytest.mark.parametrize("option", ["--clients", "--batches", "--rows", "--rounds"])
def test_none_is_no_number_of_rows_or_rounds(endpoint: Any, tmp_path: Path, option: str) -> None:
    with pytest.raises(SystemExit):
        _run(endpoint, tmp_path, option, "0")


def test_every_round_begins_with_another_mode(endpoint: Any, tmp_path: Path) -> None:
    endpoint.modes = {"teacher": 0.0, "student": 0.0}
    _run(endpoint, tmp_path, "--rows", "1", "--batches", "1")
    asked = [mode for mode, _ in itertools.groupby(head["parameters"]["mode"] for head in endpoint.heads[3:])]
    assert len(endpoint.heads) == 3 + 4 * 3 * 10
    assert [asked[start : start + 3] for start in range(0, 12, 3)] == [
        ["student", "cascade", "teacher"],
        ["cascade", "teacher", "student"],
        ["teacher", "student", "cascade"],
        ["student", "cascade", "teacher"],
    ]


def test_clients_share_the_requests(endpoint: Any, tmp_path: Path) -> None:
    endpoint.modes = {"cascade": 0.02, "teacher": 0.02, "student": 0.02}
    _run(endpoint, tmp_path, "--clients", "1", "5", "--batches", "1")
    one, five = json.loads((tmp_path / "cascade-http-digits.json").read_text())["sizes"]
    assert (one["clients"], five["clients"]) == (1, 5)
    assert all(turn["rows"] == 20 for turn in one["turns"])
    assert all(turn["rows"] == 60 for turn in five["turns"]), "ten requests each and more"
    assert max(turn["row_ms"] for turn in five["turns"]) < 0.5 * min(turn["row_ms"] for turn in one["turns"])


def test_a_teacher_that_others_answer_for_is_no_comparison(
    endpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.variant = "student"
    assert _run(endpoint, tmp_path) == UNUSABLE
    assert "mode teacher was asked for, and a row was answered by student (confident)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_row_that_the_student_answers_for_a_late_teacher_is_nothing_saved(
    endpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.modes, endpoint.reason = {"teacher": 0.0, "student": 0.0}, "fallback:timeout"
    assert _run(endpoint, tmp_path) == UNUSABLE
    assert "(fallback:timeout)" in capsys.readouterr().err
    assert all(head["parameters"]["deadline_ms"] >= 10_000 for head in endpoint.heads)


def test_refusals_are_no_answers(endpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.modes, endpoint.fail_every = {"teacher": 0.0, "student": 0.0}, 7
    assert _run(endpoint, tmp_path) == UNUSABLE
    assert "failed: HTTP 503" in capsys.readouterr().err


def test_rows_of_a_mixed_answer_are_told_by_who_answered_them() -> None:
    told = {"variant": "student,teacher,student", "reason": "confident,escalated,fallback:timeout"}
    head = json.dumps({"parameters": told}).encode()
    reply = Reply(200, {"inference-header-content-length": str(len(head))}, head + b"raw")
    assert _routes(reply, 3) == [
        ("student", "confident"),
        ("teacher", "escalated"),
        ("student", "fallback:timeout"),
    ]


def test_shares_are_of_the_teacher_in_the_same_round() -> None:
    times = {"cascade": (1.0, 4.0), "teacher": (2.0, 16.0), "student": (1.0, 2.0)}
    turns = [
        Turn(mode, times[mode][number], 10, 9 if mode == "student" else 10, {"teacher": 3, "student": 7})
        for number in (0, 1)
        for mode in times
    ]
    size = Size(2, 8, tuple(turns))
    assert size.shares("cascade") == [0.5, 0.25]
    assert (size.deferred(), size.accuracy("student")) == (0.3, 0.9)
    page = markdown("toy", [size], 0.4, "a machine", "a command")
    assert "| 37.5% (25.0% to 50.0%) | 30.0% | 100.00% | 100.00% | 90.00% |" in page
    assert "- 2 clients, 8 rows a request: 37.5% of the teacher's time, at most 40%: met" in page
