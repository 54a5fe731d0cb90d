"""Serve's own histograms take a sample."""

import pytest

from apps.observe.serve_histograms import sample_histograms


class Histogram:
    def __init__(self):
        self.seen = []

    def observe(self, value, tags=None):
        self.seen.append((value, tags))


@pytest.fixture
def kind():
    return type("Kind", (Histogram,), {"observe": Histogram.observe})


def test_few_observations_are_all_taken(kind):
    sample_histograms(kind, per_s=50)
    histogram = kind()
    for value in range(20):
        histogram.observe(value, tags={"route": "/"})
    assert histogram.seen == [(value, {"route": "/"}) for value in range(20)]


def test_of_many_a_sample_is_taken_for_each_histogram(kind):
    sample_histograms(kind, per_s=50)
    sample_histograms(kind, per_s=50)
    one, other = kind(), kind()
    for value in range(5_000):
        one.observe(value)
        other.observe(value)
    assert 50 <= len(one.seen) < 500
    assert 50 <= len(other.seen) < 500
