"""Cost: what an item costs in money and energy, where a rate is given and the processor tells."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.encoding import Array

POWER_FOLDER = Path("/sys/class/powercap")
# The counters step about once a millisecond: much less would read their steps.
ENERGY_S = 2.0


@dataclass(frozen=True)
class Energy:
    """Joules a row of the whole processor package, idle power included; None with the reason where it does not tell."""

    joules_per_row: float | None
    note: str


@dataclass(frozen=True)
class Cost:
    """Money a million rows at `per_hour` for the machine, kept busy by one caller; None where no rate is given."""

    per_hour: float | None
    per_million_rows: float | None
    batch_size: int
    energy: Energy

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Cost":
        return Cost(**{**data, "energy": Energy(**data["energy"])})


def price(rows_per_s: float, per_hour: float | None, batch_size: int, energy: Energy) -> Cost:
    """`per_hour` is what the machine costs, in whatever currency."""
    if per_hour is not None and not per_hour > 0:
        raise ValueError(f"the cost per hour is {per_hour}: give a rate above 0, or none")
    each = None if per_hour is None else per_hour / 3600 / rows_per_s * 1e6
    return Cost(per_hour, each, batch_size, energy)


def measure_energy(
    runner: Callable[[Array], Array], batch: Array, seconds: float = ENERGY_S, folder: Path = POWER_FOLDER
) -> Energy:
    """Calls `runner` for so long, and reads the processor's energy counters (RAPL) before and after."""
    zones = _packages(folder)
    if not zones:
        return Energy(None, f"not measured: {folder} holds no energy counter of a processor package")
    try:
        before = [_read(zone, "energy_uj") for zone in zones]
    except OSError as error:
        return Energy(None, f"not measured: the energy counter cannot be read ({error.strerror}: {error.filename})")
    rows, began_s = 0, time.monotonic()
    while time.monotonic() - began_s < seconds:
        runner(batch)
        rows += len(batch)
    used_uj = 0
    for zone, start in zip(zones, before, strict=True):
        grown = _read(zone, "energy_uj") - start
        # The counter starts anew at its range.
        used_uj += grown if grown >= 0 else grown + _read(zone, "max_energy_range_uj")
    return Energy(used_uj / 1e6 / rows, f"RAPL of {len(zones)} packages, idle power included, {rows} rows")


def _packages(folder: Path) -> list[Path]:
    """Whole packages alone: the zones below them count parts of the same energy."""
    if not folder.is_dir():
        return []
    zones = sorted(zone for zone in folder.iterdir() if zone.name.count(":") == 1)
    return [zone for zone in zones if _named_package(zone)]


def _named_package(zone: Path) -> bool:
    try:
        return (zone / "name").read_text().startswith("package") and (zone / "energy_uj").exists()
    except OSError:
        return False


def _read(zone: Path, name: str) -> int:
    return int((zone / name).read_text())
