import pytest

from apps.batching.pace import Pace


def test_the_best_of_the_recent_calls_is_known_beside_their_median():
    pace = Pace()
    assert pace.at_best(1) == 0.0
    for seconds in (0.02, 0.03, 0.05, 0.05, 0.05):
        pace.observe(4, seconds)
    assert pace.seconds(4) == 0.05
    assert [pace.at_best(rows) for rows in (1, 4, 8)] == [0.02, 0.02, 0.04]


def test_nothing_is_expected_before_anything_was_seen():
    assert Pace().seconds(8) == 0.0
    assert Pace().rows_within(0.001, 8) == 8


def test_below_the_smallest_size_seen_it_is_the_same_and_above_the_largest_it_grows():
    pace = Pace()
    pace.observe(4, 0.010)
    assert pace.seconds(3) == pace.seconds(1) == 0.010
    assert pace.seconds(16) == pytest.approx(0.040)


def test_a_size_between_is_read_off_the_line():
    pace = Pace()
    pace.observe(8, 0.010)
    pace.observe(16, 0.030)
    assert pace.seconds(12) == pytest.approx(0.020)


def test_a_lasting_change_is_followed_within_a_few_calls():
    pace = Pace()
    for seconds in [0.010] * 20 + [0.030] * 3:
        pace.observe(1, seconds)
    assert pace.seconds(1) == 0.030


@pytest.mark.parametrize("held_up", [1, 2])
def test_calls_that_were_held_up_change_nothing(held_up):
    pace = Pace()
    for seconds in [0.010] * 5 + [60.0] * held_up:
        pace.observe(1, seconds)
    assert pace.seconds(1) == 0.010


def test_a_held_up_call_right_after_the_first_changes_nothing():
    pace = Pace()
    pace.observe(1, 0.010)
    pace.observe(1, 60.0)
    assert pace.seconds(1) == 0.010


def test_a_pace_learned_too_slow_is_corrected_by_the_next_call():
    pace = Pace()
    pace.observe(1, 30.0)
    pace.observe(1, 0.010)
    assert pace.seconds(1) == 0.010


def test_sizes_between_correct_their_neighbours():
    pace = Pace()
    for rows, seconds in ((8, 0.010), (16, 0.020)):
        pace.observe(rows, seconds)
    for _ in range(5):
        pace.observe(12, 0.045)
    assert pace.seconds(12) == pytest.approx(0.045, rel=0.05)
    assert pace.seconds(8) == pytest.approx(0.030, rel=0.05)


def test_a_preferred_size_is_kept_as_it_is():
    pace = Pace(sizes=(12,))
    pace.observe(8, 0.010)
    pace.observe(16, 0.020)
    pace.observe(12, 0.045)
    assert (pace.seconds(8), pace.seconds(12), pace.seconds(16)) == (0.010, 0.045, 0.020)


def test_an_odd_first_size_is_scaled_to_the_next_power():
    pace = Pace()
    pace.observe(6, 0.030)
    assert pace.seconds(8) == pytest.approx(0.040)


@pytest.mark.parametrize(("seconds", "rows"), [(0.005, 0), (0.010, 1), (0.045, 4), (0.079, 7), (9.0, 8)])
def test_the_rows_that_fit_into_a_time(seconds, rows):
    pace = Pace()
    for size in (1, 2, 4, 8):
        pace.observe(size, 0.010 * size)
    assert pace.rows_within(seconds, 8) == rows


def test_no_rows_take_no_time():
    pace = Pace()
    pace.observe(1, 1.0)
    assert pace.seconds(0) == 0.0


@pytest.mark.parametrize(("fixed_s", "row_s", "rows"), [(0.1, 0.001, 32), (0.002, 0.010, 8), (0.0, 0.020, 1)])
def test_a_batch_is_as_large_as_throughput_asks_for(fixed_s, row_s, rows):
    pace = Pace()
    assert pace.rows_worth_it(32) == 32
    for size in (1, 2, 4, 8, 16, 32):
        pace.observe(size, fixed_s + row_s * size)
    assert pace.rows_worth_it(32) == rows


def test_what_was_never_seen_may_be_worth_it():
    pace = Pace()
    pace.observe(1, 0.010)
    assert pace.rows_worth_it(32) == 32
