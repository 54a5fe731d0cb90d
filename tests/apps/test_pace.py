import pytest

from apps.pace import Pace


def test_nothing_is_expected_before_anything_was_seen():
    assert Pace().seconds(8) == 0.0


def test_a_size_never_seen_is_read_off_the_nearest():
    pace = Pace()
    pace.observe(4, 0.010)
    assert pace.seconds(3) == pace.seconds(1) == 0.010
    assert pace.seconds(16) == pytest.approx(0.040)


def test_the_average_follows_a_lasting_change():
    pace = Pace()
    for seconds in [0.010] + [0.030] * 30:
        pace.observe(1, seconds)
    assert pace.seconds(1) == pytest.approx(0.030, rel=0.01)


def test_one_call_that_was_held_up_changes_little():
    pace = Pace()
    pace.observe(1, 0.010)
    pace.observe(1, 60.0)
    assert pace.seconds(1) < 0.020


def test_no_rows_take_no_time():
    pace = Pace()
    pace.observe(1, 1.0)
    assert pace.seconds(0) == 0.0
