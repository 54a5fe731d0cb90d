import math

import pytest
from torch import nn

from optimization.measure.latency import Speedup
from optimization.prune.counts import Counts
from optimization.prune.group import PruneError
from optimization.prune.latency import Stopwatch, Trial, reach_speedup
from tests.optimization.prune.networks import IMAGE, rows
from training.models.vision import convnet


def _trial(amount: float, ratio: float) -> Trial:
    return Trial(amount, {}, Counts(0, 0), Speedup(1, ratio, ratio, ratio, 15, 0.95))


def test_the_least_amount_that_is_fast_enough_is_found() -> None:
    best, trials = reach_speedup(1.5, lambda amount: _trial(amount, 1 + amount))
    assert best.speedup.ratio >= 1.5
    assert best.amount == pytest.approx(0.5, abs=0.01)
    assert best in trials


def test_a_latency_that_falls_in_steps_is_followed_by_steps() -> None:
    """Channels come in blocks: between two blocks nothing is gained, so nothing more is taken out."""
    best, _ = reach_speedup(1.4, lambda amount: _trial(amount, 1 + math.floor(amount * 4) / 4))
    assert best.amount == pytest.approx(0.5, abs=0.01)
    assert best.speedup.ratio == 1.5


def test_a_speedup_out_of_reach_is_refused_with_what_there_is() -> None:
    with pytest.raises(PruneError, match=r"is 1\.98x as fast \(at least 1\.98x\), not 3\.00x: lower speedup"):
        reach_speedup(3, lambda amount: _trial(amount, 1 + amount))


def test_luck_is_no_speedup() -> None:
    """Half of an interval lies below its middle: what is fast enough must be so for all of it."""

    def noisy(amount: float) -> Trial:
        return Trial(amount, {}, Counts(0, 0), Speedup(1, 1 + amount, 0.9 + amount, 1.1 + amount, 15, 0.95))

    best, _ = reach_speedup(1.5, noisy)
    assert best.amount == pytest.approx(0.6, abs=0.01)
    with pytest.raises(PruneError, match=r"is 1\.98x as fast \(at least 1\.88x\), not 1\.95x"):
        reach_speedup(1.95, noisy)


@pytest.mark.slow
def test_a_module_is_timed_against_the_whole_one() -> None:
    def made(width: int) -> nn.Module:
        return convnet(IMAGE, [width, width], blocks=2).eval()

    stopwatch = Stopwatch(made(128), IMAGE, rows("convnet").numpy(), batch_size=2)
    narrow, same = stopwatch.speedup(made(16)), stopwatch.speedup(made(128))
    assert narrow.is_faster and narrow.ratio > 2
    assert narrow.batch_size == 2
    assert same.ratio == pytest.approx(1, abs=0.25)
