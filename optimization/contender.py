"""Contender: a Release with its two models, fetched and verified, as it comes before the gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimization.release import Release, VersionRef, load_release
from training.artifact import Artifact, load_artifact
from training.registry import Registry, RegistryError, Version
from training.task import Task


@dataclass(frozen=True)
class Part:
    """One model. `parent` is the Artifact that it was converted from: exported, or brought to another precision.

    A model that was trained, be it by distillation or after pruning, has none: it need not answer as another does.
    """

    version: Version
    artifact: Artifact
    parent: Artifact | None
    converted: bool


@dataclass(frozen=True)
class Contender:
    """A Release with its two models, or (where `release` is None) a teacher that answers alone."""

    reference: str
    release: Release | None
    teacher: Part
    student: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.teacher,) if self.student is None else (self.teacher, self.student)

    @property
    def size_bytes(self) -> int:
        return sum(part.artifact.size_bytes for part in self.parts)


def fetch_contender(registry: Registry, version: Version, cache_dir: Path) -> Contender:
    """Raises ValueError where `version` is no Release, or a part is not the one that it names."""
    release = load_release(registry.fetch(version, cache_dir))
    teacher, student = (_fetch_part(registry, ref, cache_dir) for ref in (release.teacher, release.student))
    return Contender(version.reference, release, teacher, student)


def teacher_alone(contender: Contender) -> Contender:
    """The contender's teacher: what there would be without a cascade."""
    return Contender(f"{contender.teacher.version.reference} (the teacher alone)", None, contender.teacher, None)


def require_same_data(contenders: Sequence[Contender], task: Task) -> None:
    """Raises ValueError unless every model was made from the very data that `task` holds.

    Only then is the gate split a holdout of all of them, and the same one.
    """
    for contender in contenders:
        for part in contender.parts:
            theirs = part.version.tags.get("tandem.data_hash", "")
            if theirs != task.data_hash:
                raise ValueError(
                    f"{contender.reference} cannot be compared: its model {part.version.reference} was made from data "
                    f"with the hash {theirs[:12] or 'unknown'}, the task holds {task.data_hash[:12]}. What one gate "
                    "split holds out, the other model may have trained on: build it anew from this data, or pass the "
                    "--data-dir that both were made from"
                )


def require_same_reading(contenders: Sequence[Contender], task: Task) -> None:
    """Raises ValueError unless a row means to every model what it means in `task`."""
    for contender in contenders:
        for part in contender.parts:
            reason = part.artifact.misreads(task.encoding, task.files)
            if reason:
                raise ValueError(
                    f"{part.version.reference} of {contender.reference} {reason}: the two cannot be scored on the same "
                    "rows"
                )


def _fetch_part(registry: Registry, ref: VersionRef, cache_dir: Path) -> Part:
    version = registry.resolve(f"{ref.name}@{ref.number}")
    if version.digest != ref.digest:
        raise RegistryError(
            f"{version.reference} has digest {version.digest[:12]}, the Release says {ref.digest[:12]}: it is another "
            "model than was paired"
        )
    artifact = load_artifact(registry.fetch(version, cache_dir))
    made_from = artifact.manifest.parent
    found = registry.find(ref.name, made_from) if made_from is not None else None
    parent = None if found is None else load_artifact(registry.fetch(found, cache_dir))
    manifest = artifact.manifest
    if parent is None:
        # An ONNX graph was exported from something, though it may not be here to compare with.
        return Part(version, artifact, None, converted=made_from is not None and manifest.format != "torch")
    changed = (manifest.format, manifest.precision) != (parent.manifest.format, parent.manifest.precision)
    return Part(version, artifact, parent, converted=changed)
