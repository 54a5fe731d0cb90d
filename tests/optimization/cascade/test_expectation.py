from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimization.cascade.calibration import Calibration
from optimization.cascade.expectation import expect
from optimization.cascade.rows import Rows, score_pair
from optimization.cascade.shift import Shift, Shifted
from optimization.release import Guarantee, Release, VersionRef, load_release, write_release

GUARANTEE = Guarantee("high_probability", 0.1, 0.95, 500, "a promise")
CALIBRATION = Calibration(1.0, 0.6, GUARANTEE, 0.2, 0.8, 0.9, ())


@pytest.fixture
def rows() -> Rows:
    """Ten rows, the surest first: eight are accepted at 0.6, of which the second is harmed."""
    student, teacher = np.ones(10, bool), np.ones(10, bool)
    student[[1, 9]], teacher[2] = False, False
    return Rows(np.linspace(0.95, 0.5, 10), student, teacher)


def test_a_release_tells_what_its_pair_did_on_rows_that_chose_nothing(rows: Rows) -> None:
    score = score_pair(rows, 0.6)
    shift = Shift(score, (Shifted("fog", 3, score),), 0.1)
    expected = expect(rows, CALIBRATION, shift, student_ms=0.2, teacher_ms=1.0)
    assert (expected.rows, expected.deferral, expected.harm) == (10, pytest.approx(0.2), 0.1)
    assert expected.deferral_interval == score.deferral_interval
    assert expected.cost_ms == pytest.approx(0.4)
    assert expected.curve[-1].deferral == 0.0 and expected.curve[-1].cost_ms == 0.2
    assert [(one.corruption, one.harm) for one in expected.shifted] == [("fog", 0.1)]


def test_without_a_threshold_a_row_costs_the_teacher_alone(rows: Rows) -> None:
    expected = expect(rows, replace(CALIBRATION, threshold=None), None, student_ms=0.2, teacher_ms=1.0)
    assert (expected.deferral, expected.cost_ms, expected.shifted) == (1.0, 1.0, ())


def test_it_travels_in_the_release_and_a_release_without_one_keeps_its_digest(rows: Rows, tmp_path: Path) -> None:
    ref = VersionRef("m", 1, "0" * 64)
    plain = Release("m", ref, ref, 1.0, 0.6, GUARANTEE)
    assert b"expected" not in plain.to_json()
    told = replace(plain, expected=expect(rows, CALIBRATION, None, student_ms=0.2, teacher_ms=1.0))
    write_release(tmp_path, told)
    assert load_release(tmp_path) == told
    assert told.digest != plain.digest
