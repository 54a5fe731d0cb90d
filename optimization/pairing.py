"""Pairing: what a Release says of a teacher and a student, from the splits that neither was made from.

`python -m optimization.pairing TEACHER STUDENT` makes the Release of two Versions that can be served.
"""

import argparse
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimization.cascade.calibration import Calibration, calibrate
from optimization.cascade.expectation import expect
from optimization.cascade.rows import Rows
from optimization.cascade.shift import Shift, measure_shift
from optimization.gate import Verdict, gate_release
from optimization.measure.batches import as_served
from optimization.measure.exclusive import exclusive
from optimization.measure.latency import measure_latency
from optimization.release import Expectation, Release, VersionRef, publish_release
from optimization.runners.contract import Runner
from optimization.runners.open import open_runner
from optimization.variants import threshold_split
from training.artifact import Artifact, load_artifact
from training.encoding import Array
from training.evaluation.scores import predict_in_batches
from training.lineage import task_params
from training.options import absolute_path, add_source_arguments, read_source
from training.registry import Registry, Version
from training.task import Source, Task, load_task

MAX_HARM = 0.01
# How a pair does on corrupted rows is looked at, and nothing is chosen by it: few rows and one severity are enough.
SHIFT_ROWS, SHIFT_SEVERITIES = 200, (3,)


@dataclass(frozen=True)
class Pairing:
    """A calibrated pair, how it did on the gate rows, and under a shift."""

    calibration: Calibration
    verdict: Verdict
    shift: Shift
    rows: Rows

    def expected(self, student_ms: float, teacher_ms: float) -> Expectation:
        """Of a server, where a row takes so long."""
        return expect(self.rows, self.calibration, self.shift, student_ms=student_ms, teacher_ms=teacher_ms)

    def to_json(self) -> dict[str, Any]:
        """What a run keeps of it."""
        calibration = {**self.calibration.to_json(), "curve": None}
        return {"calibration": calibration, "verdict": self.verdict.to_json(), "shift": self.shift.to_json()}

    def release(self, teacher: Version, student: Version, expected: Expectation) -> Release:
        """Of the Versions that were paired; it bears the model's name."""
        return Release(
            model=teacher.name,
            teacher=VersionRef(teacher.name, teacher.number, teacher.digest),
            student=VersionRef(student.name, student.number, student.digest),
            temperature=self.calibration.temperature,
            threshold=self.calibration.threshold,
            guarantee=self.calibration.guarantee,
            expected=expected,
        )


def pair_up(
    teacher: Runner,
    student: Runner,
    task: Task,
    teacher_gate_logits_NC: Array,
    student_gate_logits_NC: Array,
    max_harm: float = MAX_HARM,
) -> Pairing:
    """Calibrates on the threshold rows, judges on the gate rows, whose logits are given, and looks at a shift.

    Shape suffixes: N rows, C classes.
    """
    fresh, val, gate = threshold_split(task), task.splits["val"], task.splits["gate"]
    calibration = calibrate(
        predict_in_batches(student, fresh.inputs),
        predict_in_batches(teacher, fresh.inputs),
        fresh.labels,
        temperature_logits_MC=predict_in_batches(student, val.inputs),
        temperature_labels_M=val.labels,
        max_harm=max_harm,
    )
    temperature, threshold = calibration.temperature, calibration.threshold
    verdict = gate_release(
        gate.labels,
        teacher_gate_logits_NC,
        student_gate_logits_NC,
        temperature=temperature,
        threshold=threshold,
        margin=task.margin,
        max_harm=max_harm,
    )
    shift = measure_shift(
        student,
        teacher,
        task,
        gate,
        temperature=temperature,
        threshold=threshold,
        max_harm=max_harm,
        rows=SHIFT_ROWS,
        severities=SHIFT_SEVERITIES,
    )
    rows = Rows.score(student_gate_logits_NC, teacher_gate_logits_NC, gate.labels, temperature)
    return Pairing(calibration, verdict, shift, rows)


def pair_versions(
    teacher: Version, student: Version, source: Source, registry: Registry, cache_dir: Path, max_harm: float = MAX_HARM
) -> tuple[Version, Verdict]:
    """The Release of two Versions, calibrated, judged and registered as `MODEL.endpoint@candidate`.

    A Release that fails its gate is registered too, and gets no alias. Raises ValueError, before anything is
    registered, where the two are not of one model and data, cannot be served, or are no pair: no threshold keeps harm
    within `max_harm`, so that the teacher would answer everything.
    """
    artifacts, task = _read_pair(teacher, student, source, registry, cache_dir)
    first, second = (open_runner(artifact) for artifact in artifacts)
    gate = task.splits["gate"].inputs
    logits = predict_in_batches(first, gate), predict_in_batches(second, gate)
    pairing = pair_up(first, second, task, *logits, max_harm=max_harm)
    if pairing.calibration.threshold is None:
        raise ValueError(
            f"{student.reference} is no student for {teacher.reference}: {pairing.calibration.guarantee.statement} "
            "Allow more --max-harm, or teach it better"
        )
    with exclusive("timing the pair"):
        found = measure_latency(
            {"teacher": first, "student": second}, lambda size: as_served(task.encoding, gate[:size]), (1,)
        )
    expected = pairing.expected(found["student"].at(1).p50_ms, found["teacher"].at(1).p50_ms)
    release, passed = pairing.release(teacher, student, expected), pairing.verdict.passed
    tags = {
        "tandem.teacher_version": teacher.reference,
        "tandem.gate": "passed" if passed else "failed",
        "tandem.guarantee": release.guarantee.kind,
    }
    started = {"tandem.teacher": teacher.reference, "tandem.student": student.reference}
    with registry.start_run(task.name, f"pair {teacher.reference} {student.reference}", started) as run:
        run.log_text(json.dumps(pairing.to_json(), indent=1), "pairing.json")
        return publish_release(registry, release, run, "candidate" if passed else None, tags), pairing.verdict


def _read_pair(
    teacher: Version, student: Version, source: Source, registry: Registry, cache_dir: Path
) -> tuple[list[Artifact], Task]:
    if (teacher.name, teacher.tags.get("tandem.data_hash")) != (student.name, student.tags.get("tandem.data_hash")):
        raise ValueError(f"{teacher.reference} and {student.reference} are not of one model and the same data")
    if teacher.digest == student.digest:
        raise ValueError(f"{teacher.reference} and {student.reference} are the same model: there is nothing to pair")
    artifacts: list[Artifact] = []
    for version in (teacher, student):
        artifacts.append(load_artifact(registry.fetch(version, cache_dir)))
        if artifacts[-1].manifest.format == "torch":
            raise ValueError(f"{version.reference} is no graph that can be served: name what a build or a search made")
    task = load_task(artifacts[0].manifest.task, source, task_params(teacher))
    if task.data_hash != teacher.tags.get("tandem.data_hash"):
        raise ValueError(f"{source.location or task.name} holds other data than {teacher.reference} was judged on")
    for version, artifact in zip((teacher, student), artifacts, strict=True):
        reason = artifact.misreads(task.encoding, task.files)
        if reason:
            raise ValueError(f"{version.reference} {reason}")
    return artifacts, task


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="optimization.pairing", description="Make the Release of a teacher and a student that are registered."
    )
    parser.add_argument("teacher", help="MODEL@NUMBER of a graph")
    parser.add_argument("student", help="MODEL@NUMBER of a cheaper one")
    parser.add_argument(
        "--max-harm", type=float, default=MAX_HARM, metavar="SHARE",
        help="of rows that the student may answer wrong where the teacher is right (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--cache-dir", type=absolute_path, default=".tandem/cache", help="where Versions are kept")
    add_source_arguments(parser)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        registry = Registry()
        teacher, student = registry.resolve(arguments.teacher), registry.resolve(arguments.student)
        source = read_source(arguments, arguments.data_dir or teacher.tags.get("tandem.data_dir") or None)
        made, verdict = pair_versions(teacher, student, source, registry, arguments.cache_dir, arguments.max_harm)
    except ValueError as error:
        sys.exit(f"optimization.pairing: {error}")
    for check in verdict.checks:
        print(f"{'passed' if check.passed else 'failed'}, {check.name}: {check.sentence}")
    if not verdict.passed:
        sys.exit(f"{made.reference} did not pass its gate as a pair; it is registered, and no alias moved")
    print(f"{made.reference} is the candidate. Next: python -m optimization.promote {made.reference}")


if __name__ == "__main__":
    importlib.import_module("optimization.pairing").main()
