"""What a cascade study is of: models, and rows that none of them was made from.

The rows are the task's own splits, by the parameters that its models were made with: where they have seen all of the
published train part (`calibration_from=test`), those that calibrate are cut from the test part, and quantizer ranges
come from the train part; else ranges and calibration share the calibration split, a row for one of the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimization.benchmark.cascade_models import variant_names, variants_of
from optimization.benchmark.cascade_study import TEMPERATURE_ROWS
from optimization.benchmark.cascade_times import Roles
from optimization.benchmark.given_resnets import ORIGIN, TASK_PARAMS, given_models
from optimization.variants import threshold_split
from training.artifact import Artifact, load_artifact
from training.lineage import task_params
from training.registry import Registry
from training.task import Source, Split, Task, load_task

# So many are enough; a study shows what they can promise.
CALIBRATION_ROWS = 1_000


@dataclass(frozen=True)
class Subject:
    """What is studied: rows by split, the variants by name, and where both come from, for the reader."""

    task: Task
    rows: Mapping[str, Split]
    artifacts: Mapping[str, Artifact]
    rows_by: str
    models_by: str


@dataclass
class _Models:
    """The models by name, where each comes from, and the parameters of the task that they agree on."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] | None = None
    data_hash: str | None = None

    def add(self, name: str, artifact: Artifact, origin: str) -> None:
        if name in self.artifacts:
            raise ValueError(f"two models are called {name!r}")
        self.artifacts[name], self.origins[name] = artifact, origin

    def agree(self, who: str, params: dict[str, Any], data_hash: str | None) -> None:
        if self.params not in (None, params) or (data_hash and self.data_hash not in (None, data_hash)):
            raise ValueError(
                f"{who} was made with {params or 'the default parameters'} of the task, the models before it with "
                f"{self.params or 'the default ones'}, or from other data: what one has not seen, another may have"
            )
        self.params, self.data_hash = params, data_hash or self.data_hash


def read_subject(
    reference: str,
    source: Source,
    weights: Path | None,
    models: Sequence[str],
    roles: Roles,
    work: Path,
    params: Mapping[str, Any] | None = None,
) -> Subject:
    """`models` are NAME=FOLDER or NAME=MODEL@ALIAS; `weights` is the folder of the given ResNets. `params` of the task
    are those that the models of folders were made with, which say nothing of it themselves.

    Raises ValueError where models, Versions or rows are not there, or do not belong together.
    """
    found = _Models()
    if weights:
        for name, artifact in given_models(load_task(reference, source), weights, work).items():
            found.add(name, artifact, ORIGIN)
        found.agree("what --weights names", TASK_PARAMS, None)
    for text in models:
        _read_model(text, found, work, dict(params or {}))
    if params:
        found.agree("what --task-param says", dict(params), None)
    agreed = found.params or {}
    task = load_task(reference, source, agreed)
    if found.data_hash not in (None, task.data_hash):
        raise ValueError(f"{source.location or reference} holds other data than the Versions were made from")
    for name, artifact in found.artifacts.items():
        reason = artifact.misreads(task.encoding, task.files)
        if reason:
            raise ValueError(f"{name} {reason}")
    variants = [variant for name, artifact in found.artifacts.items() for variant in variant_names(name, artifact)]
    for role in (roles.student, roles.teacher, roles.best):
        if role not in variants:
            raise ValueError(f"there is no variant {role!r}: there are {', '.join(variants)}")
    apart = agreed.get("calibration_from") == "test"
    ranges = load_task(reference, source) if apart else task
    rows = cut_rows(task, task.splits["calibration"] if apart else threshold_split(task))
    said = ", ".join(f"{name}={value}" for name, value in agreed.items())
    rows_by = f"the task's splits{f' with {said}' if said else ''}"
    return Subject(
        task,
        rows,
        variants_of(found.artifacts, ranges, work),
        f"{rows_by}; INT8 made here has its ranges from {'the train part' if apart else 'other calibration rows'}, "
        "without labels",
        "; ".join(f"{name} is {origin}" for name, origin in found.origins.items()),
    )


def cut_rows(task: Task, fresh: Split) -> dict[str, Split]:
    """The gate and report rows of `task`, and at most 1,000 of `fresh`: calibration rows that nothing was made from.

    Raises ValueError where there are too few of them, or of gate rows, to study a calibration by.
    """
    gate, calibrated = len(task.splits["gate"]), min(CALIBRATION_ROWS, len(fresh))
    if not TEMPERATURE_ROWS < calibrated < gate:
        raise ValueError(
            f"task {task.name!r} has {len(fresh)} calibration rows that no model was made from and {gate} gate rows: "
            f"a study needs more than {TEMPERATURE_ROWS} of the first, and more of the second"
        )
    # Some sets lie in the order of their makers: the cut is random, and always the same.
    rows = np.sort(np.random.default_rng(0).permutation(len(fresh))[:CALIBRATION_ROWS])
    calibration = Split(fresh.inputs[rows], fresh.labels[rows])
    return {"calibration": calibration, "gate": task.splits["gate"], "report": task.splits["report"]}


def _read_model(text: str, found: _Models, work: Path, params: dict[str, Any]) -> None:
    name, equals, place = text.partition("=")
    if not (name and equals and place):
        raise ValueError(f"--model {text}: write NAME=FOLDER or NAME=MODEL@ALIAS")
    if "@" not in place:
        artifact = load_artifact(Path(place).resolve())
        found.agree(f"the folder {name} (by --task-param)", params, None)
        found.add(name, artifact, f"an Artifact of digest {artifact.digest[:12]}")
        return
    registry = Registry()
    version = registry.resolve(place)
    found.agree(version.reference, task_params(version), version.tags.get("tandem.data_hash"))
    found.add(name, load_artifact(registry.fetch(version, work / "cache")), version.reference)
