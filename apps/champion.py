"""`python -m apps.champion MODEL`: the Release that serves MODEL and how its variants compare, as one line of JSON.

Prints `null` where the registry holds none. A command, because a launcher that stays resident should not have
imported MLflow.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from training.registry import Registry

COMPARISON_FILE = "comparison.json"


@dataclass(frozen=True)
class Row:
    """One variant as its build measured it; `speedup` is against the teacher."""

    variant: str
    accuracy: float
    size_bytes: int
    p50_ms: float
    p95_ms: float
    speedup: float

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        """Takes the fields of a row and leaves what else a build wrote beside them."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Pair:
    """Teacher and student in tandem; `deferral` is the share of rows that the teacher answers."""

    accuracy: float
    deferral: float

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        return cls(data["accuracy"], data["deferral"])


@dataclass(frozen=True)
class Champion:
    """`rows` is empty and `pair` None where the Release came without a table."""

    release: str
    rows: tuple[Row, ...] = ()
    pair: Pair | None = None
    report_rows: int = 0

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """The inverse of `main`'s output."""
        data = json.loads(line)
        return None if data is None else cls.read(data["release"], data)

    @classmethod
    def read(cls, release: str, comparison: dict[str, Any]) -> Self:
        pair = comparison.get("pair")
        return cls(
            release,
            tuple(Row.read(row) for row in comparison["rows"]),
            Pair.read(pair) if pair else None,
            comparison.get("report_rows", 0),
        )


def find_champion(registry: "Registry", model: str) -> Champion | None:
    """The Release with the alias `champion`, or None where MLflow knows no such name or alias."""
    from training.registry import RegistryError

    try:
        version = registry.resolve(f"{model}.endpoint@champion")
    except RegistryError as error:
        if getattr(error.__cause__, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    try:
        comparison = json.loads(registry.read_artifact(version.run_id, COMPARISON_FILE))
    except RegistryError:
        return Champion(version.reference)  # a Release that another tool registered serves as well without the table
    return Champion.read(version.reference, comparison)


def main(model: str) -> None:
    from training.registry import Registry

    champion = find_champion(Registry(), model)
    print(json.dumps(champion and asdict(champion)))


if __name__ == "__main__":
    main(sys.argv[1])
