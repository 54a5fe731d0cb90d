"""Release: an immutable registered version of the endpoint, pairing a teacher and a student Version."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from training.registry import Registry, Run, Version

RELEASE_FILE = "release.json"

# What the deferral threshold promises about harm: rows that the student answered wrong and the
# teacher would have answered right. "high_probability" holds with the stated confidence for this
# calibration; "mean" holds on average over calibrations; "none" is no promise, and no threshold.
GuaranteeKind = Literal["high_probability", "mean", "none"]


class ReleaseError(ValueError):
    """A file that is no Release."""


@dataclass(frozen=True)
class VersionRef:
    """One Version, by name, number and the digest it must have when it is fetched."""

    name: str
    number: int
    digest: str


@dataclass(frozen=True)
class Guarantee:
    """The share of rows harmed is at most `max_harm`, in the sense of `kind`, from `samples` calibration rows."""

    kind: GuaranteeKind
    max_harm: float
    confidence: float | None
    samples: int
    statement: str


@dataclass(frozen=True)
class ExpectedPoint:
    """What another threshold would bring: the share of rows deferred, the pair's accuracy, and the time of a row."""

    threshold: float
    deferral: float
    accuracy: float
    cost_ms: float


@dataclass(frozen=True)
class ExpectedShift:
    """What was seen under one corruption of the inputs, for which nothing is promised."""

    corruption: str
    severity: int
    deferral: float
    accuracy: float
    harm: float


@dataclass(frozen=True)
class Expectation:
    """What the pair did on `rows` gate rows, which chose nothing of it: what a server may expect of rows drawn alike.

    The interval is exact, at 95 %. A row costs `student_ms`, and where it is deferred `teacher_ms` more, both measured
    on the machine that built the pair.
    """

    rows: int
    deferral: float
    deferral_interval: tuple[float, float]
    accuracy: float
    harm: float
    student_ms: float
    teacher_ms: float
    cost_ms: float
    curve: tuple[ExpectedPoint, ...]
    shifted: tuple[ExpectedShift, ...]


@dataclass(frozen=True)
class Release:
    """A row goes to the teacher when the student's largest softmax(logits / temperature) is below `threshold`.

    `threshold` is None where none could be calibrated: the teacher then answers everything and the
    student only stands in for it.
    """

    model: str
    teacher: VersionRef
    student: VersionRef
    temperature: float
    threshold: float | None
    guarantee: Guarantee
    expected: Expectation | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ReleaseError(f"temperature is {self.temperature}: it must be above 0 and finite")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ReleaseError(f"threshold is {self.threshold}: a probability lies in 0..1")

    def to_json(self) -> bytes:
        # A Release without an expectation reads as it did before there were any: its digest stays.
        data = {key: value for key, value in asdict(self).items() if key != "expected" or value is not None}
        return json.dumps(data, indent=2, sort_keys=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()


def endpoint_name(model: str) -> str:
    """The registered model that holds the Releases of `model`."""
    return f"{model}.endpoint"


def write_release(folder: Path, release: Release) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RELEASE_FILE
    path.write_bytes(release.to_json())
    return path


def publish_release(
    registry: Registry, release: Release, run: Run, alias: str | None, tags: Mapping[str, str] | None = None
) -> Version:
    """Register `release` as the next Version of its model's endpoint, and point `alias` to it where one is given.

    Raises RegistryError where the registry cannot be asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_release(Path(folder), release)
        version = registry.publish(endpoint_name(release.model), Path(folder), run, tags or {}, identity=RELEASE_FILE)
    if alias is not None:
        registry.promote(version.name, version.number, alias)
    return version


def load_release(folder: Path) -> Release:
    """Raises ReleaseError where `folder` holds no readable Release."""
    try:
        data = json.loads((folder / RELEASE_FILE).read_bytes())
        return Release(
            **{
                **data,
                "teacher": VersionRef(**data["teacher"]),
                "student": VersionRef(**data["student"]),
                "guarantee": Guarantee(**data["guarantee"]),
                "expected": _expectation(data.get("expected")),
            }
        )
    except ReleaseError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{folder} holds no Release: {error}") from error


def _expectation(data: Mapping[str, Any] | None) -> Expectation | None:
    if data is None:
        return None
    return Expectation(
        **{
            **data,
            "deferral_interval": tuple(data["deferral_interval"]),
            "curve": tuple(ExpectedPoint(**point) for point in data["curve"]),
            "shifted": tuple(ExpectedShift(**found) for found in data["shifted"]),
        }
    )
