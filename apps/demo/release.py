"""`python -m apps.demo.release MODEL`: the Release that the demo serves, made of the champion and as JSON.

Its teacher is the champion's with test-time augmentation (apps/demo/copies.py), a real model made slow for a real
reason. Its threshold is chosen for the demo: where student and teacher are equally good, as for the digits, the
calibrated one defers nothing and there would be nothing to see.

Shape suffixes: B rows, C classes.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from apps.demo.copies import averaged_over_copies
from optimization.release import (
    RELEASE_FILE,
    Guarantee,
    Release,
    VersionRef,
    endpoint_name,
    load_release,
    write_release,
)
from optimization.runner import Runner, open_runner
from training.artifact import MODEL_FILE, Artifact, load_artifact, write_artifact
from training.encoding import Array, softmax
from training.evaluate import predict_in_batches
from training.registry import Registry, Version
from training.task import Source, load_task

ALIAS = "demo"
PROBE_COPIES, MAX_COPIES = 27, 400
TIMED_S, TIMED_CALLS = 0.6, 5


@dataclass(frozen=True)
class DemoRelease:
    """What was registered and found out: `row_ms` is what an image costs the teacher on this machine.

    `deferred` and the accuracies are of the report split, which no choice was made on.
    """

    number: int
    copies: int
    row_ms: float
    threshold: float
    deferred: float
    teacher_accuracy: float
    student_accuracy: float
    cascade_accuracy: float

    @property
    def teacher_rows_per_s(self) -> float:
        """What one replica of the teacher can answer."""
        return 1e3 / self.row_ms


def make_release(model: str, row_ms: float, deferred: float, registry: Registry, cache_dir: Path) -> DemoRelease:
    """Register a Release as `demo` whose teacher takes about `row_ms` an image and gets the share `deferred` of them.

    Raises ValueError where there is no champion, or its teacher does not read grey images.
    """
    champion = load_release(registry.fetch(registry.resolve(f"{endpoint_name(model)}@champion"), cache_dir))
    teacher, student = (
        load_artifact(registry.fetch(registry.resolve(f"{part.name}@{part.number}"), cache_dir))
        for part in (champion.teacher, champion.student)
    )
    task = load_task(teacher.manifest.task, Source())
    calibration, report = task.splits["calibration"], task.splits["report"]
    fast = open_runner(student)

    def confidence(logits_BC: Array) -> Array:
        confidence_B: Array = softmax(logits_BC / champion.temperature).max(axis=-1)
        return confidence_B

    threshold = float(np.quantile(confidence(predict_in_batches(fast, calibration.inputs)), deferred))
    with tempfile.TemporaryDirectory() as scratch, registry.start_run(model, "demo", {}) as run:
        probe = open_runner(_write(teacher, PROBE_COPIES, Path(scratch) / "probe"))
        copy_ms = milliseconds_a_row(probe, report.inputs[0]) / PROBE_COPIES
        copies = int(np.clip(round(row_ms / copy_ms), 2, MAX_COPIES))
        made = _write(teacher, copies, Path(scratch) / "teacher")
        slow = open_runner(made)
        teacher_BC, student_BC = (predict_in_batches(runner, report.inputs) for runner in (slow, fast))
        defers_B = confidence(student_BC) < threshold
        version = registry.publish(model, made.folder, run, {"tandem.copies": str(copies)})
        statement = f"no promise: a threshold that defers {deferred:.0%} of the calibration rows, chosen for a demo"
        release = Release(
            model=model,
            teacher=VersionRef(version.name, version.number, version.digest),
            student=champion.student,
            temperature=champion.temperature,
            threshold=threshold,
            guarantee=Guarantee("none", 0.0, None, 0, statement),
        )
        write_release(Path(scratch) / "release", release)
        registered: Version = registry.publish(
            endpoint_name(model), Path(scratch) / "release", run, {}, identity=RELEASE_FILE
        )
        registry.promote(registered.name, registered.number, ALIAS)

        def accuracy(logits_BC: Array) -> float:
            return float((logits_BC.argmax(axis=-1) == report.labels).mean())

        return DemoRelease(
            number=registered.number,
            copies=copies,
            row_ms=milliseconds_a_row(slow, report.inputs[0]),
            threshold=threshold,
            deferred=float(defers_B.mean()),
            teacher_accuracy=accuracy(teacher_BC),
            student_accuracy=accuracy(student_BC),
            cascade_accuracy=accuracy(np.where(defers_B[:, None], teacher_BC, student_BC)),
        )


def milliseconds_a_row(runner: Runner, row: Array) -> float:
    """The median time of a call with one row."""
    runner(row[None])
    taken_s: list[float] = []
    while sum(taken_s) < TIMED_S or len(taken_s) < TIMED_CALLS:
        started = time.perf_counter()
        runner(row[None])
        taken_s.append(time.perf_counter() - started)
    return float(np.median(taken_s)) * 1e3


def _write(teacher: Artifact, copies: int, folder: Path) -> Artifact:
    manifest = teacher.manifest
    return write_artifact(
        folder,
        {MODEL_FILE["onnx"]: averaged_over_copies(teacher, copies)},
        name=manifest.name,
        variant=f"teacher-{copies}-copies",
        task=manifest.task,
        format="onnx",
        precision=manifest.precision,
        encoding=manifest.encoding,
        input=manifest.input,
        output=manifest.output,
        architecture=manifest.architecture,
        parent=teacher.digest,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="apps.demo.release", description="Register the Release that a demo serves.")
    parser.add_argument("model")
    parser.add_argument("--row-ms", type=float, default=40.0, help="what an image costs the teacher (%(default)s)")
    parser.add_argument("--deferred", type=float, default=0.3, help="share of rows for the teacher (%(default)s)")
    parser.add_argument("--cache-dir", type=Path, required=True)
    options = parser.parse_args()
    try:
        made = make_release(options.model, options.row_ms, options.deferred, Registry(), options.cache_dir)
    except ValueError as error:
        sys.exit(f"apps.demo.release: {error}")
    print(json.dumps(asdict(made)))


if __name__ == "__main__":
    importlib.import_module("apps.demo.release").main()
