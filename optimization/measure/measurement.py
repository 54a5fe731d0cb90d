"""Measurement: what was found of one Version on one host and setting, and its place in MLflow.

A Version has many of them, one a host and setting. They lie with the run that made the Version, as metrics and as
files, so that whoever has the Version finds them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from optimization.measure.cost import Cost
from optimization.measure.footprint import Footprint
from optimization.measure.host import Host, Load
from optimization.measure.latency import Latency
from optimization.measure.paired import ClassDelta, PairedDifference
from optimization.measure.parity import Parity
from training.registry import Registry, Version
from training.task import SplitName


@dataclass(frozen=True)
class Paired:
    """Against the model that a Version was made from (`reference`), on the rows of the Measurement's split.

    `difference` is of accuracy. `parity` is of logits, on the first rows at several batch sizes and lengths.
    """

    reference: str
    difference: PairedDifference
    flip_rate: float
    parity: Parity
    classes: tuple[ClassDelta, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "classes": [delta.to_json() for delta in self.classes]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Paired":
        known = ClassDelta.__dataclass_fields__
        return Paired(
            **{
                **data,
                "difference": PairedDifference(**data["difference"]),
                "parity": Parity(**data["parity"]),
                "classes": tuple(
                    ClassDelta(**{key: value for key, value in delta.items() if key in known})
                    for delta in data["classes"]
                ),
            }
        )


@dataclass(frozen=True)
class Measurement:
    """Accuracy on one split, latency, footprint and cost of one Version; `device` and `precision` really ran.

    `accuracy_interval` is exact, at 95 %. `measured_at` is UTC in ISO 8601. `paired` is None where the Version was made
    from no other, or that one is not in the registry.
    """

    version: str
    digest: str
    variant: str
    device: str
    precision: str
    split: SplitName
    data_hash: str
    rows: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    latency: Latency
    footprint: Footprint
    cost: Cost
    paired: Paired | None
    host: Host
    load: Load
    measured_at: str

    @property
    def key(self) -> str:
        """Names the setting: what is measured again on the same host, threads, device and split replaces the old."""
        host = json.dumps(self.host.to_json(), sort_keys=True)
        return f"{self.split}-{self.device}-{self.host.threads}t-{hashlib.sha256(host.encode()).hexdigest()[:8]}"

    def named(self, references: Mapping[str, str]) -> "Measurement":
        """What was measured by digests, before it was registered, with the Versions' `references` in their place.

        A parent that is not in `references` was compared with all the same, and keeps its digest.
        """
        paired = self.paired and replace(
            self.paired, reference=references.get(self.paired.reference, self.paired.reference)
        )
        return replace(self, version=references[self.digest], paired=paired)

    def metrics(self) -> dict[str, float]:
        """The figures, flat, by the names under which they are logged."""
        found: dict[str, float] = {
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_interval[0],
            "accuracy_high": self.accuracy_interval[1],
            "size_bytes": self.footprint.size_bytes,
            "peak_bytes": self.footprint.peak_bytes,
            "start_s": self.footprint.start_s,
        }
        for batch in self.latency.batches:
            found |= {
                f"batch{batch.batch_size}_p50_ms": batch.p50_ms,
                f"batch{batch.batch_size}_p95_ms": batch.p95_ms,
                f"batch{batch.batch_size}_p99_ms": batch.p99_ms,
                f"batch{batch.batch_size}_rows_per_s": batch.rows_per_s,
            }
        if self.cost.per_million_rows is not None:
            found["cost_per_million_rows"] = self.cost.per_million_rows
        if self.cost.energy.joules_per_row is not None:
            found["joules_per_row"] = self.cost.energy.joules_per_row
        if self.paired is not None:
            found |= {
                "paired_difference": self.paired.difference.difference,
                "paired_lower": self.paired.difference.lower,
                "paired_upper": self.paired.difference.upper,
                "flip_rate": self.paired.flip_rate,
            }
        return {f"{self.split}/{self.variant}/{name}": float(value) for name, value in found.items()}

    def to_json(self) -> str:
        data = {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "latency": self.latency.to_json(),
            "footprint": self.footprint.to_json(),
            "cost": self.cost.to_json(),
            "paired": None if self.paired is None else self.paired.to_json(),
            "host": self.host.to_json(),
            "load": asdict(self.load),
        }
        return json.dumps(data, indent=2)

    @staticmethod
    def from_json(text: str | bytes) -> "Measurement":
        """Raises ValueError on what `to_json` did not write."""
        try:
            data = json.loads(text)
            return Measurement(
                **{
                    **data,
                    "accuracy_interval": tuple(data["accuracy_interval"]),
                    "latency": Latency.from_json(data["latency"]),
                    "footprint": Footprint.from_json(data["footprint"]),
                    "cost": Cost.from_json(data["cost"]),
                    "paired": None if data["paired"] is None else Paired.from_json(data["paired"]),
                    "host": Host.from_json(data["host"]),
                    "load": Load(**data["load"]),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no Measurement: {error!r}") from error


def log_measurement(registry: Registry, version: Version, measurement: Measurement) -> str:
    """Into the run that made `version`; returns the file's path there. Raises ValueError where it is of another."""
    if measurement.digest != version.digest:
        raise ValueError(
            f"the measurement is of {measurement.version} ({measurement.digest[:12]}), not of {version.reference} "
            f"({version.digest[:12]})"
        )
    run, path = registry.run(version.run_id), f"{_folder(version)}/{measurement.key}.json"
    run.log_metrics(measurement.metrics())
    run.log_text(measurement.to_json(), path)
    return path


def read_measurements(registry: Registry, version: Version) -> tuple[Measurement, ...]:
    """All that were logged of `version`, the newest first."""
    paths = registry.list_artifacts(version.run_id, _folder(version))
    found = [Measurement.from_json(registry.read_artifact(version.run_id, path)) for path in paths]
    return tuple(sorted(found, key=lambda measurement: measurement.measured_at, reverse=True))


def _folder(version: Version) -> str:
    return f"measurements/{version.digest[:16]}"
