"""When a model's replicas could answer one more row, and how long the way to them is."""

import pytest

from apps.backends.horizon import FORGOTTEN_S, Horizon, Way


@pytest.fixture
def horizon():
    return Horizon(hint_s=0.025)


def test_of_a_model_that_said_nothing_nothing_is_believed(horizon):
    assert horizon.answers_at(5.0) == 0.0


def test_the_earliest_replica_counts(horizon):
    horizon.heard("a", 1.050, now=1.0)
    horizon.heard("b", 1.030, now=1.0)
    assert horizon.answers_at(1.010) == 1.030


def test_a_replica_that_was_not_heard_of_lately_may_be_free(horizon):
    horizon.heard("a", 1.050, now=1.0, step_s=0.030)
    horizon.heard("b", 1.080, now=1.020)
    assert horizon.answers_at(1.024) == 1.050
    assert horizon.answers_at(1.026) == 0.0


def test_a_replica_that_was_busy_is_so_until_it_can_begin_the_next_row(horizon):
    horizon.heard("a", 1.080, now=1.0, step_s=0.020)
    assert horizon.answers_at(1.059) == 1.080
    assert horizon.answers_at(1.061) == 0.0


def test_no_word_is_believed_for_long(horizon):
    horizon.heard("a", 9.0, now=1.0, step_s=0.020)
    assert horizon.answers_at(1.099) == 9.0
    assert horizon.answers_at(1.101) == 0.0


def test_a_replica_that_is_gone_is_forgotten(horizon):
    horizon.heard("a", 1.050, now=1.0)
    later = 1.0 + FORGOTTEN_S + 1
    horizon.heard("b", later + 0.040, now=later)
    assert horizon.answers_at(later) == later + 0.040


def test_rows_on_their_way_are_ahead_of_the_next_one(horizon):
    horizon.heard("a", 1.020, now=1.0, step_s=0.020)
    horizon.sent(1, now=1.010)
    assert horizon.answers_at(1.011) == pytest.approx(1.050)
    horizon.sent(2, now=1.012)
    assert horizon.answers_at(1.013) == pytest.approx(1.090)


def test_what_had_not_arrived_when_the_replica_spoke_comes_first(horizon):
    horizon.heard("a", 1.020, now=1.0, step_s=0.020)
    horizon.sent(1, now=1.010)
    horizon.sent(1, now=1.018)
    horizon.heard("a", 1.040, now=1.020, step_s=0.020, knew_until=1.015)
    assert horizon.answers_at(1.021) == pytest.approx(1.060)
    horizon.heard("a", 1.060, now=1.030, step_s=0.020, knew_until=1.025)
    assert horizon.answers_at(1.031) == pytest.approx(1.060)


def test_with_several_replicas_nobody_knows_which_of_them_has_the_rows(horizon):
    horizon.heard("a", 1.020, now=1.0, step_s=0.020)
    horizon.heard("b", 1.020, now=1.0, step_s=0.020)
    horizon.sent(1, now=1.0)
    assert horizon.answers_at(1.0) == 1.020


def test_a_first_call_that_took_long_is_soon_forgotten():
    way = Way()
    way.took(2.0)
    for _ in range(40):
        way.took(0.002)
    assert way.margin_s < 0.010


def test_a_way_that_varies_keeps_a_margin_above_its_mean():
    way = Way()
    for number in range(200):
        way.took(0.001 if number % 2 else 0.003)
    assert 0.0025 < way.margin_s < 0.006
