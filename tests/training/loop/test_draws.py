import numpy as np
import pytest
from numpy.typing import NDArray

from training.loop.draws import keys, uniforms

IDS = np.arange(4096)


def _splitmix64(state: int, draws: int) -> list[int]:
    """The generator as published, on Python's integers."""
    numbers = []
    for _ in range(draws):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        numbers.append(z ^ (z >> 31))
    return numbers


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return abs(float(np.corrcoef(one.ravel(), other.ravel())[0, 1]))


def test_each_row_has_the_published_generator_started_at_its_key() -> None:
    assert _splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]
    drawn = uniforms(seed=3, epoch=2, ids_B=np.array([17, 5]), draws=6)
    for row, key in zip(drawn, keys(3, 2, np.array([17, 5])).tolist(), strict=True):
        assert row.tolist() == [(number >> 40) / 2**24 for number in _splitmix64(key, 6)]


def test_the_numbers_stay_what_they_are_from_release_to_release() -> None:
    """Else a training that was begun with one release would end differently with another."""
    assert keys(0, 1, np.array([0, 1]), stream=2).tolist() == [13766154714751083392, 8926643892764739002]
    assert uniforms(7, 3, np.array([0, 10**6, 2**40]), 2).tolist() == [
        [0.263702392578125, 0.17673414945602417],
        [0.29855990409851074, 0.1624317765235901],
        [0.8089244961738586, 0.960400402545929],
    ]


def test_a_rows_numbers_depend_neither_on_its_company_nor_on_the_order() -> None:
    whole = uniforms(1, 4, IDS, 8)
    random = np.random.default_rng(0)
    for chosen in (random.permutation(IDS), IDS[::-1], IDS[5:6], random.choice(IDS, 100)):
        assert (uniforms(1, 4, chosen, 8) == whole[chosen]).all()
    assert (uniforms(1, 4, IDS, 3) == whole[:, :3]).all()


def test_the_numbers_are_uniform() -> None:
    drawn = uniforms(0, 1, IDS, 16)
    assert drawn.dtype == np.float32
    assert drawn.shape == (4096, 16)
    assert 0 <= drawn.min() < 0.001 < 0.999 < drawn.max() < 1
    # Five standard errors each.
    count = drawn.size
    assert abs(drawn.mean() - 1 / 2) < 5 * (1 / 12 / count) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 5 * (1 / 180 / count) ** 0.5
    bins, _ = np.histogram(drawn, bins=100, range=(0, 1))
    chi_square = float(((bins - count / 100) ** 2 / (count / 100)).sum())
    assert 99 - 5 * (2 * 99) ** 0.5 < chi_square < 99 + 5 * (2 * 99) ** 0.5


def test_neighbours_in_every_direction_are_unrelated() -> None:
    drawn = uniforms(0, 1, IDS, 16)
    limit = 5 / drawn.size**0.5
    assert _correlation(drawn[1:], drawn[:-1]) < limit
    assert _correlation(drawn[:, 1:], drawn[:, :-1]) < limit
    for other in (uniforms(1, 1, IDS, 16), uniforms(0, 2, IDS, 16), uniforms(0, 1, IDS, 16, stream=1)):
        assert _correlation(drawn, other) < limit


def test_seed_epoch_and_stream_are_not_taken_for_each_other() -> None:
    made = {keys(seed, epoch, IDS[:1], stream).item() for seed in range(5) for epoch in range(5) for stream in range(5)}
    assert len(made) == 125


@pytest.mark.parametrize("seed", [0, 2**63, 2**70 + 1])
def test_no_two_rows_share_a_key(seed: int) -> None:
    assert len(np.unique(keys(seed, 0, np.arange(100_000)))) == 100_000
