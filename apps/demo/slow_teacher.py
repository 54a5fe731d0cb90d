"""`python -m apps.demo.slow_teacher MODEL.endpoint@ALIAS`: the same Release with a teacher that takes 20 ms an image.

The teacher answers with the mean over so many views of an image as take that time on this machine; the cascade is
calibrated anew, and the Release is registered under the alias `slow`.
"""

import argparse
import importlib
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from apps.demo.slowed import SLOW_BATCH, THREADS, slow_down
from apps.demo.views import max_shifted_views, shifted_grid
from optimization.cascade.calibration import Calibration, calibrate
from optimization.pairing import MAX_HARM
from optimization.release import VersionRef, load_release, publish_release
from optimization.runners.open import open_runner
from optimization.variants import threshold_split
from training.address import absolute_location
from training.artifact import Artifact, load_artifact
from training.evaluation.scores import predict_in_batches
from training.lineage import task_params
from training.options import absolute_path
from training.registry import Registry, Version
from training.task import Source, Task, load_task


@dataclass(frozen=True)
class Wanted:
    """About `item_ms` an image, by views of which every second is mirrored if `flip`; the Release becomes `alias`.

    `max_harm` is what the cascade's threshold has to bound: a stricter one sends more to the teacher.
    """

    item_ms: float = 20.0
    flip: bool = False
    max_harm: float = MAX_HARM
    alias: str = "slow"


@dataclass(frozen=True)
class Slow:
    """What was registered, and what it was found to be."""

    version: Version
    views: int
    item_ms: float
    calibration: Calibration


def slow_release(registry: Registry, reference: str, wanted: Wanted, source: Source, cache_dir: Path) -> Slow:
    """Register the Release `reference` with its teacher slowed down, as `wanted` says.

    Raises ValueError where there is no such Release, its teacher is no ONNX graph of images, or the data are others.
    """
    before = load_release(registry.fetch(registry.resolve(reference), cache_dir))
    versions = [registry.resolve(f"{part.name}@{part.number}") for part in (before.teacher, before.student)]
    teacher, student = (load_artifact(registry.fetch(version, cache_dir)) for version in versions)
    task = load_task(teacher.manifest.task, source, task_params(versions[0]))
    with tempfile.TemporaryDirectory() as scratch, registry.start_run(task.name, f"slow {reference}", {}) as run:
        grid = partial(shifted_grid, flip=wanted.flip)
        row, most_views = task.splits["calibration"].inputs[0], max_shifted_views(wanted.flip)
        slow = slow_down(teacher, grid, wanted.item_ms, most_views, row, Path(scratch))
        calibration = _calibrate(slow.teacher, student, task, wanted.max_harm)
        made = registry.publish(before.teacher.name, slow.teacher.folder, run, {"tandem.views": str(slow.views)})
        release = replace(
            before,
            teacher=VersionRef(made.name, made.number, made.digest),
            temperature=calibration.temperature,
            threshold=calibration.threshold,
            guarantee=calibration.guarantee,
            expected=None,  # that was of another teacher
        )
        version = publish_release(registry, release, run, wanted.alias)
    return Slow(version, slow.views, slow.item_ms, calibration)


def _calibrate(teacher: Artifact, student: Artifact, task: Task, max_harm: float) -> Calibration:
    fresh, val = threshold_split(task), task.splits["val"]
    teacher_runner, student_runner = open_runner(teacher, THREADS), open_runner(student, THREADS)
    return calibrate(
        predict_in_batches(student_runner, fresh.inputs),
        predict_in_batches(teacher_runner, fresh.inputs, SLOW_BATCH),
        fresh.labels,
        temperature_logits_MC=predict_in_batches(student_runner, val.inputs),
        temperature_labels_M=val.labels,
        max_harm=max_harm,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="apps.demo.slow_teacher", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("reference", help="the Release to start from: MODEL.endpoint@ALIAS")
    parser.add_argument("--item-ms", type=float, default=20.0, help="what one image is to take (%(default)s)")
    parser.add_argument("--alias", default="slow", help="%(default)s")
    parser.add_argument("--flip", action="store_true", help="mirrored views too: for a set that has no left or right")
    parser.add_argument("--max-harm", type=float, default=MAX_HARM, help="bounded by the threshold (%(default)s)")
    parser.add_argument("--data-dir", type=absolute_location, help="where the task's own files lie")
    parser.add_argument("--cache-dir", type=absolute_path, default=".tandem/cache")
    arguments = parser.parse_args()
    wanted = Wanted(arguments.item_ms, arguments.flip, arguments.max_harm, arguments.alias)
    try:
        source = Source(arguments.data_dir)
        slow = slow_release(Registry(), arguments.reference, wanted, source, arguments.cache_dir)
    except ValueError as error:
        sys.exit(f"apps.demo.slow_teacher: {error}")
    found = slow.calibration
    print(
        f"{slow.version.reference} is {arguments.alias}: its teacher takes {slow.item_ms:.1f} ms an image with "
        f"{slow.views} views and is right in {found.teacher_accuracy:.1%} of the calibration rows, its student in "
        f"{found.student_accuracy:.1%}; {found.expected_deferral:.0%} of the rows go to the teacher"
    )


if __name__ == "__main__":
    importlib.import_module("apps.demo.slow_teacher").main()
