import json
from pathlib import Path

import numpy as np
import pytest

from optimization.measure.cost import Cost, Energy, measure_energy, price

NOT_MEASURED = Energy(None, "not measured")


def _zone(folder: Path, name: str, label: str, energy_uj: int, range_uj: int = 10_000_000) -> Path:
    zone = folder / name
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{label}\n")
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return zone


def test_a_rate_gives_the_price_of_a_million_rows() -> None:
    cost = price(1000.0, 3.6, 8, NOT_MEASURED)
    # 3.6 an hour is 0.001 a second, in which 1000 rows are answered.
    assert cost.per_million_rows == pytest.approx(1.0)
    assert price(1000.0, None, 8, NOT_MEASURED).per_million_rows is None
    assert Cost.from_json(json.loads(json.dumps(cost.to_json()))) == cost
    with pytest.raises(ValueError, match="the cost per hour is 0"):
        price(1000.0, 0.0, 8, NOT_MEASURED)


def test_energy_is_read_of_whole_packages_and_survives_the_counters_range(tmp_path: Path) -> None:
    first = _zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    _zone(tmp_path, "intel-rapl:0:0", "core", 5)
    second = _zone(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    _zone(tmp_path, "intel-rapl:2", "psys", 77)
    calls = 0

    def runner(batch: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        # The first counter comes to its range and starts anew; the second counts on.
        (first / "energy_uj").write_text("1000000\n")
        (second / "energy_uj").write_text("2000000\n")
        return batch

    found = measure_energy(runner, np.zeros((4, 2)), seconds=0.02, folder=tmp_path)
    assert found.joules_per_row == pytest.approx((2.0 + 1.0) / (4 * calls))
    assert "2 packages, idle power included" in found.note


def test_energy_that_cannot_be_read_is_said_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(batch: np.ndarray) -> np.ndarray:
        raise AssertionError("a model was run for nothing")

    none = measure_energy(never, np.zeros((1, 2)), folder=tmp_path / "missing")
    assert none.joules_per_row is None and "holds no energy counter" in none.note
    _zone(tmp_path, "intel-rapl:0", "package-0", 1)

    def forbidden(zone: Path, name: str) -> int:
        raise PermissionError(13, "Permission denied", str(zone / name))

    monkeypatch.setattr("optimization.measure.cost._read", forbidden)
    refused = measure_energy(never, np.zeros((1, 2)), folder=tmp_path)
    assert refused.joules_per_row is None and "cannot be read (Permission denied" in refused.note
