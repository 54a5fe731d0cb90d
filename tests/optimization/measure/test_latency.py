import json
from collections.abc import Callable
from itertools import cycle

import numpy as np
import pytest

from optimization.measure.latency import (
    BatchLatency,
    ItemTime,
    Latency,
    Speedup,
    measure_latency,
    measure_stream,
    speedup,
    stream_speedup,
)
from training.encoding import Array


class Clock:
    """Stands in for the clock: only the runners that it makes let time pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.log: list[str] = []
        monkeypatch.setattr("time.perf_counter_ns", lambda: self.now_ns)

    def runner(self, name: str, *taken_ms: float) -> Callable[[Array], Array]:
        """A Runner whose calls take each of `taken_ms` in turn."""
        turns = cycle(taken_ms)

        def run(batch: Array) -> Array:
            self.log.append(f"{name}{len(batch)}")
            self.now_ns += round(next(turns) * 1e6)
            return batch

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def _latency(*round_p50_ms: float) -> Latency:
    first = round_p50_ms[0]
    return Latency((BatchLatency(1, first, first, first, first, round_p50_ms, len(round_p50_ms)),))


def test_rounds_interleave_the_runners_and_rotate_their_order(clock: Clock) -> None:
    runners = {name: clock.runner(name, 1) for name in "ABC"}
    measure_latency(runners, lambda n: np.zeros((n, 2)), batch_sizes=(1,), rounds=3, calls=1, warmup=1)
    assert clock.log[:3] == ["A1", "B1", "C1"], "every runner is warmed up before the clock starts"
    assert "".join(entry[0] for entry in clock.log[3:]) == "ABC" + "BCA" + "CAB"


def test_latency_summarizes_the_timed_calls_of_each_batch_size(clock: Clock) -> None:
    # The first call at each batch size is the warm-up, which is not counted.
    runners = {"slow": clock.runner("s", 900, 4, 4, 10), "fast": clock.runner("f", 100, 2, 1, 2)}
    taken = measure_latency(runners, lambda n: np.zeros((n, 2)), batch_sizes=(8,), rounds=6, calls=3, warmup=1)
    slow = taken["slow"].at(8)
    assert slow.calls == 18
    assert len(slow.round_p50_ms) == 6
    # 18 calls from the second on: 4 4 10 / 900 4 4 / 10 900 4 / 4 10 900 / 4 4 10 / 900 4 4.
    assert slow.round_p50_ms == (4, 4, 10, 10, 4, 4)
    assert slow.p50_ms == 4
    assert slow.p95_ms == slow.p99_ms == 900
    assert slow.spread_ms == (4, 10)
    assert slow.mean_ms == pytest.approx((4 * 900 + 10 * 4 + 4 * 10) / 18)
    assert slow.rows_per_s == pytest.approx(8 * 1000 / slow.mean_ms)
    assert speedup(taken["slow"], taken["fast"], 8).ratio == 2
    assert set(clock.log) == {"s8", "f8"}


def test_a_batch_size_not_measured_is_named() -> None:
    with pytest.raises(ValueError, match="batch size 4 was not measured; 1 were"):
        _latency(1.0).at(4)


def test_speedup_pairs_the_rounds() -> None:
    # The machine slows down fourfold half-way; within each round the candidate is twice as fast.
    reference = _latency(*([2.0] * 6 + [8.0] * 6))
    candidate = _latency(*([1.0] * 6 + [4.0] * 6))
    measured = speedup(reference, candidate, 1)
    assert (measured.ratio, measured.lower, measured.upper) == pytest.approx((2.0, 2.0, 2.0))
    assert measured.is_faster and not measured.is_slower
    back = speedup(candidate, reference, 1)
    assert back.is_slower and not back.is_faster


def test_an_interval_that_includes_one_is_no_speedup() -> None:
    ratios = [0.8, 0.9, 0.95, 1.1, 1.2, 1.2, 1.3, 1.3, 1.4, 1.5, 1.6, 1.7]
    measured = speedup(_latency(*ratios), _latency(*[1.0] * 12), 1)
    assert measured.ratio == pytest.approx(1.25)
    assert measured.lower < 1 < measured.upper
    assert not measured.is_faster


def test_too_few_rounds_leave_the_interval_open() -> None:
    measured = speedup(_latency(*[9.0] * 5), _latency(*[1.0] * 5), 1)
    assert measured == Speedup(1, 9.0, 0.0, float("inf"), 5, 0.95)
    assert not measured.is_faster
    assert speedup(_latency(*[9.0] * 6), _latency(*[1.0] * 6), 1).is_faster


@pytest.mark.parametrize("rounds", [6, 12, 25])
def test_speedup_interval_covers_the_true_median_at_its_level(rounds: int) -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        measured = speedup(_latency(*generator.lognormal(sigma=0.5, size=rounds)), _latency(*[1.0] * rounds), 1)
        covered += measured.lower <= 1.0 <= measured.upper
    assert covered >= 935


def test_rounds_of_different_runs_are_not_paired() -> None:
    with pytest.raises(ValueError, match="measure both in one run"):
        speedup(_latency(1.0, 1.0), _latency(1.0), 1)


def test_latency_is_json_and_back() -> None:
    latency = Latency((BatchLatency(8, 1.0, 2.0, 3.0, 1.25, (1.0, 1.5), 30),))
    assert Latency.from_json(json.loads(json.dumps(latency.to_json()))) == latency
    assert latency.to_json()[0]["rows_per_s"] == 6400


def test_a_stream_is_timed_whole_with_rounds_interleaved(clock: Clock) -> None:
    # Every second row takes the pair another way; a row's time is the mean over all of them.
    runners = {"pair": clock.runner("p", 1, 3), "best": clock.runner("b", 4)}
    rows = np.zeros((6, 2))
    found = measure_stream(runners, rows, batch_size=1, rounds=2)
    assert found["pair"] == ItemTime((2.0, 2.0), 6, 1)
    assert found["best"].median_ms == 4
    order = "".join(entry[0] for entry in clock.log)
    assert order == "p" * 6 + "b" * 6 + "p" * 6 + "b" * 6 + "b" * 6 + "p" * 6
    assert stream_speedup(found["best"], found["pair"]).ratio == 2


def test_a_stream_in_batches_divides_by_its_rows(clock: Clock) -> None:
    found = measure_stream({"one": clock.runner("o", 10)}, np.zeros((5, 2)), batch_size=2, rounds=1)
    assert found["one"].round_ms == (6.0,)  # three calls of 10 ms over five rows
    assert clock.log[-3:] == ["o2", "o2", "o1"]


def test_streams_of_different_runs_are_not_compared() -> None:
    with pytest.raises(ValueError, match="6 rows by 1 and 6 by 8 cannot be compared"):
        stream_speedup(ItemTime((1.0,), 6, 1), ItemTime((1.0,), 6, 8))
    with pytest.raises(ValueError, match="give at least one of each, and a whole batch"):
        measure_stream({"one": lambda batch: batch}, np.zeros((3, 2)), batch_size=8)
