import json

import numpy as np
import pytest
from numpy.typing import NDArray

from optimization.cascade.resplits import Resplits, resplit
from training.encoding import Array


def _population(rows: int, seed: int = 0) -> tuple[Array, Array, NDArray[np.int64]]:
    """A good teacher, and a student that is worse where it is unsure."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    truth = np.eye(4)[labels]
    hardness = generator.gamma(2.0, 0.8, (rows, 1))
    teacher = 6 * truth + generator.normal(size=(rows, 4)) * (0.6 + hardness)
    student = 2.2 * (3 * truth + generator.normal(size=(rows, 4)) * (0.3 + hardness))
    return student.astype(np.float32), teacher.astype(np.float32), labels


@pytest.fixture(scope="module")
def found() -> Resplits:
    return resplit(*_population(6000), rows=800, temperature_rows=100, max_harm=0.02, resplits=150)


def test_the_bound_holds_as_often_as_it_says(found: Resplits) -> None:
    assert found.count("high_probability") == 150
    assert found.held_all >= 0.92  # 95 % and more; 150 draws show less than 92 % once in twenty such runs
    assert found.interval(found.held_all)[1] >= 0.95
    assert 0.25 * 0.02 < found.mean_harm < 0.02, "a bound that is never approached defers rows for nothing"


def test_harm_is_counted_on_rows_that_the_calibration_did_not_see(found: Resplits) -> None:
    # A threshold is chosen by its own rows' harm: on others there is more.
    other = [one.harm > one.harm_all for one in found.resplits]
    assert np.mean(other) > 0.5
    assert len({one.threshold for one in found.resplits}) > 5, "every calibration is another"
    assert len({one.temperature for one in found.resplits}) > 100


def test_few_rows_give_the_promise_on_average_which_is_then_kept() -> None:
    found = resplit(*_population(6000), rows=120, temperature_rows=20, max_harm=0.02, resplits=300)
    assert found.count("mean") == 300
    deviation = np.std([one.harm for one in found.resplits]) / np.sqrt(300)
    assert found.mean_harm <= 0.02 + 2.6 * deviation
    assert found.held < 0.95, "single calibrations do exceed it"


def test_it_is_json_with_its_shares(found: Resplits) -> None:
    data = json.loads(json.dumps(found.to_json()))
    assert data["held"] == found.held and len(data["resplits"]["harm"]) == 150
    assert data["mean_deferral"] == pytest.approx(np.mean(data["resplits"]["deferral"]))


@pytest.mark.parametrize(("rows", "temperature_rows"), [(50, 10), (20, 20), (20, 0)])
def test_every_part_needs_rows(rows: int, temperature_rows: int) -> None:
    with pytest.raises(ValueError, match="each part needs at least one row"):
        resplit(*_population(50), rows=rows, temperature_rows=temperature_rows, max_harm=0.1, resplits=3)
