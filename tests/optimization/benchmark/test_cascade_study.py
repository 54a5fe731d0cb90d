"""The study on models whose logits are made up: who may read what, and what the page claims."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from optimization.benchmark.cascade import _write
from optimization.benchmark.cascade_page import cascade_page
from optimization.benchmark.cascade_study import (
    PREDICTED,
    Aim,
    Parts,
    Study,
    _bound,
    choose,
    report,
    resplits,
)
from optimization.benchmark.cascade_times import Roles, RowTimes, time_rows
from optimization.cascade.rows import Rows, score_pair
from optimization.cascade.shift import Shift, Shifted
from optimization.cascade.target import Prospect
from optimization.gate import Check
from optimization.measure.host import describe_host
from optimization.release import GuaranteeKind
from training.encoding import Array

ROLES = Roles("student", "teacher", "teacher")
TIMES = RowTimes(student_ms=0.2, teacher_ms=1.0, best_ms=1.0)
AIM = Aim(margin=0.01, limit=0.5)


@pytest.fixture(scope="module")
def everything() -> Parts:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 6000)
    truth = np.eye(4)[labels]
    hardness = generator.gamma(2.0, 0.8, (6000, 1))
    teacher = 8 * truth + generator.normal(size=(6000, 4)) * (0.6 + hardness)
    student = 2.2 * (4.5 * truth + generator.normal(size=(6000, 4)) * (0.3 + 0.8 * hardness))
    return Parts(labels, {"student": student.astype(np.float32), "teacher": teacher.astype(np.float32)})


@pytest.fixture(scope="module")
def parts(everything: Parts) -> dict[str, Parts]:
    cut = np.split(np.arange(6000), [1000, 3500])
    return {name: everything.take(rows) for name, rows in zip(("calibration", "gate", "report"), cut, strict=True)}


@pytest.fixture(scope="module")
def study(everything: Parts, parts: dict[str, Parts]) -> Study:
    chosen = choose(parts, ROLES, AIM, TIMES)
    calibration = chosen.calibration

    def wait(loops: int, name: str) -> "Sleeper":
        return Sleeper(everything.logits[name], loops)

    runners = {"student": wait(1, "student"), "teacher": wait(40, "teacher")}
    rows = np.arange(3500, 3600)[:, None]
    timed = time_rows(
        runners, ROLES, rows, 1, temperature=calibration.temperature, threshold=calibration.threshold, rounds=6
    )
    clean = score_pair(Rows.score(*_of(parts["report"]), calibration.temperature), calibration.threshold)
    worse = dataclasses.replace(clean, harm=0.2, harm_interval=(0.18, 0.22))
    return Study(
        task="toy",
        rows_by="a generator",
        models_by="made up",
        command="python -m optimization.benchmark.cascade toy",
        roles=ROLES,
        aim=AIM,
        times=TIMES,
        chosen=chosen,
        reported=report(parts["report"], ROLES, AIM, calibration, TIMES),
        timed=(timed,),
        resplits=resplits(everything, ROLES, ((1000, 100, 0.02), (150, 15, 0.02)), 20),
        best_of_all=everything.accuracy("teacher"),
        shift=Shift(clean, (Shifted("fog", 5, worse), Shifted("fog", 1, clean)), chosen.max_harm),
        host=describe_host(1, ("numpy",)),
        cut_rows=(1000, 2500, 2500),
        digests={"student": "0" * 64},
    )


class Sleeper:
    """Answers rows by their number, after so many small products."""

    def __init__(self, logits: Array, loops: int) -> None:
        self._logits, self._loops = logits, loops

    def __call__(self, batch: Array) -> Array:
        for _ in range(self._loops):
            np.linalg.svd(np.ones((6, 6)))
        return self._logits[batch[:, 0]]


def _of(part: Parts) -> tuple[Array, Array, Array]:
    return part.logits["student"], part.logits["teacher"], part.labels


def test_the_bound_comes_from_the_gate_rows_alone(parts: dict[str, Parts]) -> None:
    first = choose(parts, ROLES, AIM, TIMES)
    shuffled = np.random.default_rng(3).permutation(1000)
    other = {**parts, "calibration": Parts(parts["calibration"].labels[shuffled], parts["calibration"].logits)}
    spoiled = choose(other, ROLES, AIM, TIMES)
    assert (spoiled.prospects, spoiled.levels, spoiled.max_harm) == (first.prospects, first.levels, first.max_harm)
    assert spoiled.calibration.threshold != first.calibration.threshold


def test_no_choice_depends_on_the_report_rows(parts: dict[str, Parts]) -> None:
    without = {name: part for name, part in parts.items() if name != "report"}
    assert choose(without, ROLES, AIM, TIMES) == choose(parts, ROLES, AIM, TIMES)


def test_temperature_and_threshold_use_different_calibration_rows(study: Study) -> None:
    assert study.chosen.calibration.guarantee.samples == 900


def test_the_reported_pair_is_the_chosen_one_on_the_report_rows(study: Study, parts: dict[str, Parts]) -> None:
    calibration = study.chosen.calibration
    rows = Rows.score(*_of(parts["report"]), calibration.temperature)
    assert study.reported.score == score_pair(rows, calibration.threshold)
    best = float((parts["report"].logits["teacher"].argmax(axis=1) == parts["report"].labels).mean())
    assert study.reported.accuracies["teacher"] == best
    assert study.reported.against_best.difference == pytest.approx(study.reported.score.accuracy - best)


def test_the_strictest_bound_within_the_time_is_taken(study: Study) -> None:
    chosen, limit_ms = study.chosen, PREDICTED * AIM.limit * TIMES.best_ms
    within = [one.max_harm for one in chosen.prospects if one.cost_ms <= limit_ms]
    assert chosen.max_harm == min(within) > min(one.max_harm for one in chosen.prospects)


def test_a_bound_that_holds_on_average_alone_is_not_the_strictest() -> None:
    def of(bound: float, cost_ms: float, kind: GuaranteeKind) -> Prospect:
        return Prospect(bound, 1.0, 0.9, 0.1, 0.9, bound, cost_ms, kind)

    prospects = (of(0.001, 0.3, "mean"), of(0.002, 0.6, "high_probability"), of(0.003, 0.3, "high_probability"))
    level = {one.max_harm: Check("level", True, 0.0, 0.0, "") for one in prospects}
    assert _bound(prospects, level, 0.5).max_harm == 0.003
    assert _bound(prospects[:1], level, 0.5).max_harm == 0.001, "there is none with confidence"
    not_level = {**level, 0.003: Check("level", False, 0.0, 0.0, "")}
    assert _bound(prospects, not_level, 0.5).max_harm == 0.002, "the loosest that is level"


def test_the_note_is_for_the_reader(study: Study) -> None:
    note = "The report rows were read before."
    assert note in cascade_page(dataclasses.replace(study, note=note)).split("## ")[0]


def test_where_no_bound_is_so_fast_the_loosest_that_keeps_level_is_taken(parts: dict[str, Parts]) -> None:
    chosen = choose(parts, ROLES, AIM, RowTimes(student_ms=0.8, teacher_ms=1.0, best_ms=1.0))
    levels = {one.max_harm: check.passed for one, check in zip(chosen.prospects, chosen.levels, strict=True)}
    assert all(passed for bound, passed in levels.items() if bound <= chosen.max_harm)
    looser = [bound for bound in levels if bound > chosen.max_harm]
    assert looser and not levels[min(looser)], "the next one is no longer level"


def test_the_pair_takes_the_student_s_time_and_its_share_of_the_teacher_s(study: Study) -> None:
    timed = study.timed[0]
    student, teacher, pair = (timed.items[name].median_ms for name in ("student in pair", "teacher", "pair"))
    assert student < pair < teacher
    assert timed.share == pytest.approx(1 / timed.speedup.ratio)
    assert timed.speedup.is_faster


def test_the_page_claims_only_what_was_held(study: Study) -> None:
    page = cascade_page(study)
    assert study.reported.check.sentence in page
    assert "python -m loadtests.cascade --model toy" in page
    assert "Models: made up. Rows: 1,000 calibration, 2,500 gate, 2,500 report, of a generator." in page
    assert "The guarantee does not hold under a shift: 1 of 2 break it for certain" in page
    failed = dataclasses.replace(
        study,
        reported=dataclasses.replace(study.reported, check=dataclasses.replace(study.reported.check, passed=False)),
        aim=dataclasses.replace(AIM, limit=0.01),
    )
    head = cascade_page(failed).split("## ")[0]
    assert head.count("**Missed**") >= 2


def test_parts_join_again(everything: Parts, parts: dict[str, Parts]) -> None:
    joined = Parts.joined(parts.values())
    np.testing.assert_array_equal(joined.labels, everything.labels)
    for name, logits in everything.logits.items():
        np.testing.assert_array_equal(joined.logits[name], logits)


def test_page_figures_and_plots_are_written_side_by_side(study: Study, tmp_path: Path) -> None:
    _write(study, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("cascade-toy.md", "cascade-toy.json"),
        *(f"cascade-toy-{name}.png" for name in ("curve", "cost", "resplits", "shift")),
    }
    page = (tmp_path / "cascade-toy.md").read_text()
    for picture in tmp_path.glob("*.png"):
        assert f"({picture.name})" in page
        assert picture.read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "cascade-toy.json").read_text())
    assert data["report"]["score"]["rows"] == 2500
    assert data["machine"]["processor"]
