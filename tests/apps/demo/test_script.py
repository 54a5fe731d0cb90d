"""What the demo says was seen is what was measured."""

from pathlib import Path

import pytest
import yaml

from apps.demo.__main__ import demo_config
from apps.demo.script import ACTS, Act, Recorder, quantile_ms, verdict
from apps.demo.traffic import Window
from apps.serve_config import check

ROOT = Path(__file__).resolve().parents[3]
TWO = (Act("Calm", "Says.", 10, 0.5), Act("Killed", "Says.", 10, 0.5, kills=True))


def test_a_p95_counts_who_got_no_answer():
    assert quantile_ms([10.0] * 95, 95) == 10.0
    assert quantile_ms([10.0] * 95, 100) == 10.0
    assert quantile_ms([10.0] * 94, 100) is None
    assert quantile_ms([], 0) is None
    assert quantile_ms([5.0, 1.0, 9.0], 3, 0.5) == 5.0


def test_an_act_is_summed_up_over_its_windows():
    recorder = Recorder(TWO, objective_ms=100)
    routes = {"confident": 6, "escalated": 2, "fallback:overload": 1, "shed": 1}
    recorder.add([Window(1.0, 0, 8, [10.0] * 8 + [200.0], routes)], 0, 10.0, 1, 0)
    recorder.add([Window(2.0, 0, 1, [10.0], {"escalated": 1})], 0, 10.0, 2, 0)
    recorder.add([Window(3.0, 1)], 1, 10.0, 0, 1)
    calm, killed = recorder.summaries()
    assert calm["requests"] == 11
    assert calm["in_time"] == pytest.approx(9 / 11)
    assert calm["accuracy"] == pytest.approx(0.9)
    assert (calm["unanswered"], calm["failed"], calm["most_replicas"]) == (1, 0, 2)
    assert calm["by_teacher_per_s"] == pytest.approx(1.5)
    assert (killed["requests"], killed["in_time"], killed["without_teacher_s"]) == (0, None, 1.0)


def test_a_request_counts_for_the_act_that_sent_it_though_it_ends_in_the_next():
    recorder = Recorder(TWO, objective_ms=100)
    sample = recorder.add([Window(1.0, 0, 1, [900.0], {"pinned": 1}), Window(1.0, 1)], 1, 10.0, 1, 0)
    assert [one["p95_ms"] for one in recorder.summaries()] == [900.0, None]
    # The page shows what ends when it ends.
    assert sample.by_route_per_s == {"pinned": 1.0}


def test_a_sample_is_of_the_last_two_seconds_but_its_routes_of_its_own_window():
    recorder = Recorder(TWO, objective_ms=100)
    for at_s in (0.5, 1.0, 1.5, 2.0):
        recorder.add([Window(at_s, 0, 0, [500.0], {"escalated": 1})], 0, 10.0, 1, 0)
    sample = recorder.add([Window(4.0, 0, 1, [20.0], {"confident": 1})], 0, 10.0, 1, 0)
    assert (sample.p95_ms, sample.in_time, sample.accuracy) == (20.0, 1.0, 1.0)
    assert sample.by_route_per_s == {"confident": 0.5}


def test_the_verdict_says_it_in_words():
    recorder = Recorder(TWO, objective_ms=100)
    recorder.add([Window(1.0, 0, 9, [10.0] * 10, {"confident": 10})], 0, 10.0, 1, 0)
    (sentence,) = verdict(TWO, recorder.summaries(), 100)
    assert sentence == "Calm: 100.0% of 10 requests within 100 ms, p95 10 ms, 0 unanswered, 90.0% right"
    recorder.add([Window(2.0, 1, 0, [], {"failed": 4})], 1, 10.0, 0, 0)
    assert "p95 never, 4 unanswered; no teacher for 1 s" in verdict(TWO, recorder.summaries(), 100)[1]


def test_the_script_takes_three_minutes_at_most_and_ends_calmly():
    assert 120 <= sum(act.seconds for act in ACTS) <= 180
    assert ACTS[-1].load < 1
    assert [act.mode for act in ACTS].count("teacher") == sum(act.kills for act in ACTS) == 1


def test_the_demo_serves_a_config_that_serve_understands():
    config = demo_config(yaml.safe_load((ROOT / "serve_config.yaml").read_text()), 7)
    check(config)
    assert config["applications"][0]["args"]["releases"] == [{"ref": "7"}]
