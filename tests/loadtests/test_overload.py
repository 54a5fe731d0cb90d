import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests import overload
from loadtests.endpoint import ModelMetadata, Tensor
from loadtests.overload import ARMS, ArmResult, Round, Setting, evaluate, read_rounds
from loadtests.overload_report import fewer_violations, markdown, verdicts
from loadtests.summary import Judged

MODEL = ModelMetadata("digits", (), Tensor("image", "UINT8", (-1, 1, 8, 8)), Tensor("logits", "FP32", (-1, 10)))
SETTING = Setting("http://127.0.0.1:8000", MODEL, {}, objective_ms=50, load_s=6, times=3)
CASCADE = ARMS[0]
PUBLISHED = Path(__file__).parents[2] / "docs" / "benchmarks"


def item(at_s: float, reason: str, latency_ms: float = 10, correct: int = 1) -> Judged:
    variant = "teacher" if reason == "escalated" else "student"
    return Judged(at_s, latency_ms, variant=variant, reason=reason, release="1", rows=1, correct=correct)


def run() -> list[Judged]:
    """20/s under load: half confident, a quarter by the teacher, a quarter wrong fallbacks; calm after 6.5 s."""
    loaded = [
        item(at / 20, ("confident", "escalated", "confident", "fallback:overload")[at % 4], correct=int(at % 4 != 3))
        for at in range(120)
    ]
    return [*loaded, item(6.2, "fallback:overload"), *(item(6.5 + at / 20, "confident") for at in range(10))]


def test_arm_is_judged_by_its_time_under_load() -> None:
    result = evaluate(run(), SETTING, CASCADE, rate=20, capacity=10)
    assert (result.requests, result.violations, result.errors, result.p95_ms) == (120, 0, {}, 10)
    assert result.routes == {"student: confident": 60, "teacher: escalated": 30, "student: fallback:overload": 30}
    assert result.accuracy_by_route["student: fallback:overload"] == 0
    assert (result.accuracy, result.right_per_s) == (0.75, 15)
    # 30 rows of the 10/s * 6 s that the teacher could have answered.
    assert result.teacher_share == 0.5
    assert (result.calm_after_s, result.calm_accuracy) == (0.5, 1.0)


def test_shed_and_late_requests_are_violations() -> None:
    judged = [*run(), Judged(1.0, math.inf, "HTTP 503"), item(2.0, "confident", latency_ms=51)]
    result = evaluate(judged, SETTING, CASCADE, rate=20, capacity=10)
    assert (result.violations, result.errors) == (2, {"HTTP 503": 1})


def rounds() -> list[Round]:
    good = evaluate(run(), SETTING, CASCADE, rate=20, capacity=6)
    alone = [replace(good, arm=arm.name, violations=80, errors={"HTTP 503": 80}) for arm in ARMS[1:]]
    return [Round(6.0, (replace(good, violations=1), *alone))] * 3


def held(changed: dict[str, Any]) -> list[bool]:
    """Which of the demands hold when the cascade's results are `changed`."""
    made = [Round(r.capacity, (replace(r.arms[0], **changed), *r.arms[1:])) for r in rounds()]
    return [holds for _, holds in verdicts(made, SETTING)]


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, None),
        ({"errors": {"HTTP 500": 1}}, 0),
        ({"p95_ms": 50.1}, 1),
        ({"p95_ms": None}, 1),
        ({"violations": 9}, 2),
        ({"teacher_share": 0.79}, 3),
        ({"calm_after_s": 5.5}, 4),
        ({"calm_after_s": None}, 4),
    ],
)
def test_each_demand_is_checked_by_itself(changed: dict[str, Any], missed: int | None) -> None:
    assert held(changed) == [number != missed for number in range(5)]


def test_cascade_is_compared_with_the_better_teacher() -> None:
    (one, *_) = rounds()
    better = replace(one.arms[1], violations=40)
    assert fewer_violations([one]) == 80
    assert fewer_violations([Round(6.0, (one.arms[0], better, one.arms[2]))]) == 40
    assert fewer_violations([Round(6.0, (replace(one.arms[0], violations=0), *one.arms[1:]))]) == math.inf


def test_arms_may_be_left_out() -> None:
    two = [Round(r.capacity, r.arms[:2]) for r in rounds()]
    assert all(holds for _, holds in verdicts(two, SETTING))
    page = markdown(SETTING, two, "python -m loadtests.overload")
    assert "| | tandem | teacher, shedding |" in page and "queueing.png" not in page
    assert verdicts([Round(r.capacity, r.arms[1:]) for r in rounds()], SETTING) == []


def test_page_gives_medians_ranges_and_what_never_came() -> None:
    first, second, third = rounds()
    worse = Round(6.0, (replace(second.arms[0], p95_ms=None), *second.arms[1:]))
    page = markdown(SETTING, [first, worse, third], "python -m loadtests.overload")
    assert "| p95 ms | 10.0 (10.0 to never) | 10.0 | 10.0 |" in page
    assert "| student: fallback:overload | 25.0% | 0.0% |" in page
    assert "Holds: 0 errors" in page and "python -m loadtests.overload" in page


def test_published_page_is_what_its_rounds_give_today() -> None:
    facts = json.loads((PUBLISHED / "overload.json").read_text())
    setting = replace(SETTING, **{name: facts[name] for name in ("objective_ms", "load_s", "times")})
    page = markdown(setting, read_rounds(PUBLISHED / "overload.json"), facts["command"])
    # What follows tells the machine that this runs on.
    found, _ = page.split("## How")
    assert (PUBLISHED / "overload.md").read_text().startswith(found)


@pytest.mark.slow
def test_rounds_are_run_in_turn_written_and_added_to(
    endpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "CLOSED_LOOP_S", 0.5)
    monkeypatch.setattr(overload, "WARM_UP_S", 0.1)
    endpoint.serial = True
    endpoint.delay_s = 0.02
    argv = ["--url", endpoint.url, "--seconds", "1.2", "--rounds", "1", "--out", str(tmp_path)]
    # A server that queues without end meets nothing, in any arm.
    assert overload.main(argv) == 1
    assert {head.get("parameters", {}).get("mode") for head in endpoint.heads} == {"cascade", "teacher"}
    facts = json.loads((tmp_path / "overload.json").read_text())
    assert facts["command"].startswith("python -m loadtests.overload") and facts["versions"]["aiohttp"]
    (first,) = facts["rounds"]
    assert 20 < first["capacity"] <= 50
    assert [arm["arm"] for arm in first["arms"]] == [arm.name for arm in ARMS]
    assert first["arms"][0]["rate"] == pytest.approx(3 * first["capacity"])
    assert first["arms"][2]["p95_ms"] > 200
    page = (tmp_path / "overload.md").read_text()
    for name in ("overload-tandem.png", "overload-teacher-shedding.png", "overload-teacher-queueing.png"):
        assert f"({name})" in page and (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert overload.main([*argv, "--append"]) == 1
    added = read_rounds(tmp_path / "overload.json")
    assert [result.arm for result in added[1].arms] == [ARMS[1].name, ARMS[2].name, ARMS[0].name]


def test_other_files_are_no_earlier_run(tmp_path: Path) -> None:
    file = tmp_path / "overload.json"
    file.write_text('{"rounds": [{"capacity": 1}]}')
    with pytest.raises(ValueError, match="choose another --out"):
        read_rounds(file)


def test_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "overload.json"
    file.write_text(json.dumps({"rounds": overload.as_json(rounds())}))
    assert read_rounds(file) == rounds()
    assert isinstance(read_rounds(file)[0].arms[0], ArmResult)


def test_endpoint_that_is_not_there_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert overload.main(["--url", "http://127.0.0.1:9"]) == 2
    assert "is it running?" in capsys.readouterr().err
