"""Plan: the exact Versions that one Release in service consists of, resolved once so that replicas cannot differ."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.args import ModelArgs
from optimization.release import Release, VersionRef, endpoint_name, load_release
from training.registry import Registry, RegistryError, Version


class PlanError(ValueError):
    """The registry does not hold what the application is asked to serve; the message says what to run."""


@dataclass(frozen=True)
class Plan:
    """`number` is the Release's version in the registry."""

    number: int
    weight: float
    release: Release
    teacher: Version
    student: Version


def resolve_plans(args: ModelArgs, registry: Registry) -> tuple[Plan, ...]:
    """One Plan for each of `args.releases`; raises PlanError."""
    plans = tuple(_resolve(args.model, item.ref, item.weight, registry) for item in args.releases)
    _refuse_twins(args, plans)
    return plans


def _resolve(model: str, ref: str, weight: float, registry: Registry) -> Plan:
    reference = ref if "@" in ref else f"{endpoint_name(model)}@{ref}"
    try:
        version = registry.resolve(reference)
        with tempfile.TemporaryDirectory(prefix="tandem-release-") as scratch:
            release = load_release(registry.fetch(version, Path(scratch)))
        teacher, student = (_pinned(registry, part) for part in (release.teacher, release.student))
    except ValueError as error:
        raise PlanError(
            f"Release {reference!r} cannot be served: {error}. To make one from the newest teacher, run: "
            f"python -m optimization.build {model}@candidate"
        ) from error
    if release.model != model:
        raise PlanError(f"Release {reference!r} is of model {release.model!r}, and args.model is {model!r}")
    return Plan(version.number, weight, release, teacher, student)


def _pinned(registry: Registry, part: VersionRef) -> Version:
    version = registry.resolve(f"{part.name}@{part.number}")
    if version.digest != part.digest:
        raise RegistryError(
            f"{version.reference} has digest {version.digest[:12]}, the Release says {part.digest[:12]}"
        )
    return version


def _refuse_twins(args: ModelArgs, plans: Sequence[Plan]) -> None:
    numbers = [plan.number for plan in plans]
    if len(set(numbers)) < len(numbers):
        refs = ", ".join(item.ref for item in args.releases)
        raise PlanError(f"the Releases {refs} of the split are all number {numbers[0]}: name different ones")
