"""`python -m apps.launcher.champion MODEL`: the Release that serves MODEL and how its variants compare, as JSON.

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
class Champion:
    """`comparison` is what `optimization.comparison` logged, None where the Release came without it."""

    release: str
    comparison: dict[str, Any] | None = None

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """The inverse of `main`'s output."""
        data = json.loads(line)
        return None if data is None else cls(**data)


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
        return Champion(version.reference, json.loads(registry.read_artifact(version.run_id, COMPARISON_FILE)))
    except RegistryError:
        return Champion(version.reference)  # a Release that another tool registered serves as well without the table


def main(model: str) -> None:
    from training.registry import Registry

    champion = find_champion(Registry(), model)
    print(json.dumps(champion and asdict(champion)))


if __name__ == "__main__":
    main(sys.argv[1])
