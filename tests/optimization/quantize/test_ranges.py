from collections.abc import Iterable, Mapping

import numpy as np
import pytest

from optimization.quantize.error import QuantizationError
from optimization.quantize.ranges import Batches, Range, find_ranges
from training.encoding import Array


def _batches(*parts: Array) -> Batches:
    def again() -> Iterable[Mapping[str, Array]]:
        return [{"x": part} for part in parts]

    return again


def test_minmax_spans_all_batches_and_zero() -> None:
    found = find_ranges(_batches(np.float32([1.0, 5.0]), np.float32([[2.0], [7.0]])), "minmax")
    assert found == {"x": Range(0.0, 7.0)}
    assert find_ranges(_batches(np.float32([-3.0, -1.0])), "minmax") == {"x": Range(-3.0, 0.0)}


def test_percentile_cuts_both_tails_to_the_share_that_it_names() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    found = find_ranges(_batches(values[:100_000], values[100_000:]), "percentile", 98.0)["x"]
    low, high = np.percentile(values, [1, 99])
    bin_width = float(values.max() - values.min()) / 2048
    assert found.low == pytest.approx(float(low), abs=2 * bin_width)
    assert found.high == pytest.approx(float(high), abs=2 * bin_width)


def test_percentile_of_everything_is_minmax() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    whole = find_ranges(_batches(values), "minmax")["x"]
    found = find_ranges(_batches(values), "percentile", 100.0)["x"]
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high))


def test_percentile_of_what_a_relu_gives_keeps_zero_as_its_low() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=50_000), 0).astype(np.float32)
    found = find_ranges(_batches(values), "percentile", 99.0)["x"]
    assert found.low == 0.0
    assert found.high < 0.8 * values.max()


def test_entropy_gives_up_a_lone_outlier_for_finer_steps() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    values[0] = 40.0
    found = find_ranges(_batches(values), "entropy")["x"]
    assert 3.0 < found.high < 15.0


def test_entropy_keeps_a_range_that_is_filled_evenly() -> None:
    values = np.random.default_rng(0).uniform(-2, 2, size=400_000).astype(np.float32)
    found = find_ranges(_batches(values), "entropy")["x"]
    assert found.high > 1.9 and found.low < -1.9


def test_entropy_does_not_count_zeros() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=50_000)).astype(np.float32)
    padded = np.concatenate([values, np.zeros(5_000_000, np.float32)])
    assert find_ranges(_batches(padded), "entropy") == find_ranges(_batches(values), "entropy")


@pytest.mark.parametrize("calibrator", ["minmax", "entropy", "percentile"])
def test_a_tensor_of_zeros_has_a_range(calibrator: str) -> None:
    assert find_ranges(_batches(np.zeros(10, np.float32)), calibrator, 99.0) == {"x": Range(0.0, 0.0)}  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused_by_name(broken: float) -> None:
    with pytest.raises(QuantizationError, match="tensor x is not finite"):
        find_ranges(_batches(np.float32([1.0, broken])), "minmax")


def test_a_range_without_zero_is_no_range() -> None:
    with pytest.raises(ValueError, match="must be finite and hold 0"):
        Range(1.0, 2.0)
