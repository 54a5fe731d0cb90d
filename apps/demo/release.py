"""`python -m apps.demo.release MODEL`: the Release that the demo serves, made of the champion and told as JSON.

Its teacher is the champion's with test-time augmentation (apps/demo/views.py): a real model, slow for a real reason.
What is sent are test images moved by a pixel, harder than those that the models were made for. The threshold is chosen
for the demo: where student and teacher are equally good, as on the digits as they are, the calibrated one defers
nothing and there would be nothing to see.

Shape suffixes: B rows, C classes.
"""

import argparse
import importlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from apps.demo.slowed import SLOW_BATCH, slow_down
from apps.demo.views import jittered_grid
from optimization.release import (
    Guarantee,
    Release,
    VersionRef,
    endpoint_name,
    load_release,
    publish_release,
)
from optimization.runners.open import open_runner
from training.artifact import load_artifact
from training.encoding import Array, softmax
from training.evaluation.scores import predict_in_batches
from training.registry import Registry
from training.task import Source, Split, load_task

ALIAS = "demo"
MAX_VIEWS = 1_000
# Moved copies of each row of a split: a few hundred rows give a share to within some percent only.
DRAWS = 3


@dataclass(frozen=True)
class DemoRelease:
    """What was registered and found out: `row_ms` is what an image costs the teacher on this machine.

    `deferred` and the accuracies are of the moved report split, which no choice was made on.
    """

    number: int
    views: int
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


def moved(split: Split, draws: int = 1, seed: int = 0) -> Split:
    """Each image `draws` times, moved by up to one pixel up, down, left or right, and dark where it came from.

    Harder than what the models were made for, so that there is something to see of who is right.
    """
    inputs = np.concatenate([split.inputs] * draws)
    padded = np.pad(inputs, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = inputs.shape[2:]
    moves = np.random.default_rng(seed).integers(0, 3, (len(inputs), 2))
    cut = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, moves, strict=True)]
    return Split(np.stack(cut), np.concatenate([split.labels] * draws))


def make_release(
    model: str, row_ms: float, deferred: float, registry: Registry, cache_dir: Path, inputs: Path
) -> DemoRelease:
    """Register a Release as `demo` whose teacher takes about `row_ms` an image and gets the share `deferred` of them.

    What to send goes to the file `inputs`. Raises ValueError where there is no champion, or its teacher does not read
    images.
    """
    champion = load_release(registry.fetch(registry.resolve(f"{endpoint_name(model)}@champion"), cache_dir))
    teacher, student = (
        load_artifact(registry.fetch(registry.resolve(f"{part.name}@{part.number}"), cache_dir))
        for part in (champion.teacher, champion.student)
    )
    task = load_task(teacher.manifest.task, Source())
    calibration, report = moved(task.splits["calibration"], DRAWS, seed=1), moved(task.splits["report"], DRAWS)
    np.savez_compressed(inputs, inputs=report.inputs, labels=report.labels)
    fast = open_runner(student)

    def confidence(logits_BC: Array) -> Array:
        confidence_B: Array = softmax(logits_BC / champion.temperature).max(axis=-1)
        return confidence_B

    threshold = float(np.quantile(confidence(predict_in_batches(fast, calibration.inputs)), deferred))
    with tempfile.TemporaryDirectory() as scratch, registry.start_run(model, "demo", {}) as run:
        slowed = slow_down(teacher, jittered_grid, row_ms, MAX_VIEWS, report.inputs[0], Path(scratch))
        slow = open_runner(slowed.teacher)
        teacher_BC, student_BC = (predict_in_batches(runner, report.inputs, SLOW_BATCH) for runner in (slow, fast))
        defers_B = confidence(student_BC) < threshold
        version = registry.publish(model, slowed.teacher.folder, run, {"tandem.views": str(slowed.views)})
        statement = f"no promise: a threshold that defers {deferred:.0%} of the calibration rows, chosen for a demo"
        release = Release(
            model=model,
            teacher=VersionRef(version.name, version.number, version.digest),
            student=champion.student,
            temperature=champion.temperature,
            threshold=threshold,
            guarantee=Guarantee("none", 0.0, None, 0, statement),
        )
        registered = publish_release(registry, release, run, ALIAS)

        def accuracy(logits_BC: Array) -> float:
            return float((logits_BC.argmax(axis=-1) == report.labels).mean())

        return DemoRelease(
            number=registered.number,
            views=slowed.views,
            row_ms=slowed.item_ms,
            threshold=threshold,
            deferred=float(defers_B.mean()),
            teacher_accuracy=accuracy(teacher_BC),
            student_accuracy=accuracy(student_BC),
            cascade_accuracy=accuracy(np.where(defers_B[:, None], teacher_BC, student_BC)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="apps.demo.release", description="Register the Release that a demo serves.")
    parser.add_argument("model")
    parser.add_argument("--row-ms", type=float, default=60.0, help="what an image costs the teacher (%(default)s)")
    parser.add_argument("--deferred", type=float, default=0.35, help="share of rows for the teacher (%(default)s)")
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True, metavar="FILE.npz", help="where to put what to send")
    options = parser.parse_args()
    try:
        made = make_release(
            options.model, options.row_ms, options.deferred, Registry(), options.cache_dir, options.inputs
        )
    except ValueError as error:
        sys.exit(f"apps.demo.release: {error}")
    print(json.dumps(asdict(made)))


if __name__ == "__main__":
    importlib.import_module("apps.demo.release").main()
