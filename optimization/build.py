"""`python -m optimization.build MODEL@ALIAS`: distil, export, quantize, measure, gate, calibrate, register.

With `--from-torch` or `--from-onnx` the teacher is a model that was not trained here: it is registered first.
"""

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from optimization.adopt.adoption import ORIGIN_TAG, adopt, doubt
from optimization.adopt.flags import add_adoption_arguments, read_adoption
from optimization.comparison import Comparison, compare
from optimization.distill.parameters import Distill, Hint
from optimization.distill.student import distill, require_same_reading
from optimization.distill.teacher import TeacherPlace
from optimization.gate import Verdict, gate_student
from optimization.measure.measurement import log_measurement
from optimization.pairing import Pairing, pair_up
from optimization.release import Expectation, publish_release
from optimization.table import comparison_table
from optimization.variants import Variant, float_variant, int8_variant
from training.artifact import Artifact, load_artifact
from training.champion import crown
from training.encoding import Array
from training.evaluation.scores import predict_in_batches
from training.launch.job import Compute, Interrupted
from training.lineage import task_params, version_tags
from training.loop.training import TrainingError
from training.options import absolute_path, add_training_arguments, read_compute, read_source
from training.recipe import Recipe, flatten, override
from training.registry import Registry, Run, Version
from training.task import Source, Task, load_task
from training.train import EXIT_INTERRUPTED

MEASURE_THREADS = 1
# Tried in this order: the first student that passes its gate is paired with the teacher.
STUDENTS = ("student-int8", "student-fp32")


@dataclass(frozen=True)
class Plan:
    """What a build is asked for, beside the teacher's Version."""

    distill: Distill
    source: Source
    compute: Compute


@dataclass(frozen=True)
class Built:
    """All that was made and found out, before anything is registered."""

    recipe: Recipe
    variants: Mapping[str, Variant]
    student_torch: Artifact
    student: str
    verdicts: Mapping[str, Verdict]
    pairing: Pairing
    comparison: Comparison
    expected: Expectation


def build(version: Version, plan: Plan, registry: Registry, cache_dir: Path) -> tuple[Version, bool]:
    """From a teacher's Version to a registered Release; returns it and whether it became the champion.

    Every variant and the Release are registered with their measurements whatever those are, after all
    stages succeeded; only a Release that passes its gate becomes `champion`.
    """
    teacher = load_artifact(registry.fetch(version, cache_dir))
    if teacher.manifest.format != "torch" and ORIGIN_TAG not in version.tags:
        raise ValueError(
            f"{version.reference} is {teacher.manifest.variant}, a graph made by a build: give the Version that "
            f"training registered, such as {version.name}@candidate"
        )
    recipe = plan.distill.recipe(student_reference(version), task_params(version))
    task = load_task(teacher.manifest.task, plan.source, recipe.task_params)
    require_same_reading(teacher, recipe, task)
    if task.data_hash != version.tags.get("tandem.data_hash"):
        raise ValueError(
            f"{version.reference} was trained on other data than {plan.source.location or teacher.manifest.task} "
            "holds: train it anew, or pass the --data-dir that it was trained with"
        )
    place = TeacherPlace(teacher.folder, version.reference, registry.tracking_uri)
    started = {"tandem.teacher": version.reference}
    with (
        registry.start_run(task.name, f"build {version.reference}", started) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        run.log_params(flatten(recipe) | {f"distill.{name}": value for name, value in plan.distill.to_json().items()})
        _say("distilling the student")
        student = distill(
            place, plan.distill, recipe, task, plan.source, plan.compute, Path(scratch) / "student",
            tracking_uri=registry.tracking_uri, run_id=run.run_id,
        )  # fmt: skip
        built = _make(teacher, student, recipe, task, Path(scratch))
        return _register(built, task, version, plan, registry, run)


def student_reference(teacher: Version) -> str:
    """The recipe of a teacher's student where nobody names one; a model from elsewhere goes by its task."""
    return f"{teacher.tags.get('tandem.recipe') or teacher.tags.get('tandem.task', '')}_student"


def _make(teacher: Artifact, student_torch: Artifact, recipe: Recipe, task: Task, scratch: Path) -> Built:
    _say("exporting both to ONNX, quantizing the student")
    teacher_onnx = float_variant("teacher-fp32", teacher, task, scratch, MEASURE_THREADS)
    student_onnx = float_variant("student-fp32", student_torch, task, scratch, MEASURE_THREADS)
    student_int8 = int8_variant("student-int8", student_onnx, task, scratch, MEASURE_THREADS)
    variants = {variant.name: variant for variant in (teacher_onnx, student_onnx, student_int8)}
    _say("gating")
    gate = {name: predict_in_batches(v.runner, task.splits["gate"].inputs) for name, v in variants.items()}
    verdicts = {name: _student_verdict(variants, gate, name, task) for name in STUDENTS}
    student = next((name for name in STUDENTS if verdicts[name].passed), STUDENTS[0])
    _say(f"calibrating the cascade of {student} and teacher, also looking at it under a shift")
    pairing = pair_up(
        variants["teacher-fp32"].runner, variants[student].runner, task, gate["teacher-fp32"], gate[student]
    )
    verdicts["release"] = pairing.verdict
    _say("measuring, one variant at a time in turn")
    comparison = compare(variants, student, pairing.calibration, task, MEASURE_THREADS, (teacher, student_torch))
    times_ms = {row.variant: row.p50_ms for row in comparison.rows}
    expected = pairing.expected(times_ms[student], times_ms["teacher-fp32"])
    return Built(recipe, variants, student_torch, student, verdicts, pairing, comparison, expected)


def _student_verdict(variants: Mapping[str, Variant], gate: Mapping[str, Array], name: str, task: Task) -> Verdict:
    teacher = variants["teacher-fp32"]
    return gate_student(
        task.splits["gate"].labels,
        gate["teacher-fp32"],
        gate[name],
        margin=task.margin,
        size_bytes=variants[name].artifact.size_bytes,
        reference_size_bytes=teacher.artifact.size_bytes,
        parent_parity=variants[name].parity,
    )


def _register(
    built: Built, task: Task, teacher: Version, plan: Plan, registry: Registry, run: Run
) -> tuple[Version, bool]:
    _say("registering")
    calibration = built.pairing.calibration
    built.comparison.log(run, calibration, built.verdicts, task, built.expected, built.pairing.shift)
    lineage = {"tandem.teacher_version": teacher.reference}
    reference = plan.distill.student or student_reference(teacher)
    published = {}
    for artifact in [built.student_torch, *(variant.artifact for variant in built.variants.values())]:
        of_teacher = artifact.manifest.variant == "teacher-fp32"
        recipe = teacher.tags.get("tandem.recipe", "") if of_teacher else reference
        tags = version_tags(recipe, built.recipe.task_params, plan.source, task, artifact) | lineage
        if not of_teacher:
            tags["tandem.distill"] = json.dumps(plan.distill.to_json())
        tags |= built.comparison.tags(artifact.manifest.variant)
        verdict = built.verdicts.get(artifact.manifest.variant)
        if verdict is not None:
            tags["tandem.gate"] = "passed" if verdict.passed else "failed"
        published[artifact.manifest.variant] = registry.publish(task.name, artifact.folder, run, tags)
    references = {version.digest: version.reference for version in (teacher, *published.values())}
    for variant, found in built.comparison.measurements.items():
        log_measurement(registry, published[variant], found.named(references))
    release = built.pairing.release(published["teacher-fp32"], published[built.student], built.expected)
    passed = built.verdicts[built.student].passed and built.verdicts["release"].passed
    tags = {**lineage, "tandem.gate": "passed" if passed else "failed", "tandem.guarantee": release.guarantee.kind}
    version = publish_release(registry, release, run, "candidate", tags)
    if passed:
        crown(registry, version.name, version.number)
    for name in (built.student, "release"):
        for check in built.verdicts[name].failures:
            _say(f"refused, {name}: {check.sentence}")
    return version, passed


def _say(stage: str) -> None:
    print(f"build: {stage}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimization.build", description="Compress a registered teacher and register the Release that serves it."
    )
    parser.add_argument("reference", nargs="?", help="the teacher's Version: MODEL@ALIAS or MODEL@NUMBER")
    parser.add_argument(
        "--student", metavar="RECIPE", help="the student's recipe (default: the teacher's, with _student)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="override the student's recipe"
    )
    parser.add_argument(
        "--distill", action="append", default=[], metavar="FIELD=VALUE", help="how it is taught, e.g. temperature=2"
    )
    parser.add_argument(
        "--hint", action="append", default=[], metavar="LAYER:LAYER", help="of the teacher and of the student"
    )
    parser.add_argument(
        "--cache-dir", type=absolute_path, default=".tandem/cache", help="where fetched Versions are kept"
    )
    add_training_arguments(parser)
    add_adoption_arguments(parser)
    return parser


def _teacher(arguments: argparse.Namespace, registry: Registry) -> Version:
    """The Version that was named, or that of the model which is brought from elsewhere."""
    request = read_adoption(arguments)
    if (request is None) == (arguments.reference is None):
        raise ValueError("name a registered Version, or bring a model by --from-torch or --from-onnx: one of the two")
    if request is None:
        return registry.resolve(arguments.reference)
    version, scores = adopt(request, registry, MEASURE_THREADS)
    _say(f"{version.reference} has an accuracy of {scores.accuracy:.2%} on the gate split")
    warning = doubt(scores)
    if warning:
        _say(f"look again: {warning}")
    return version


def main() -> None:
    arguments = _parser().parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        registry = Registry()
        hints = tuple(Hint.parse(hint) for hint in arguments.hint)
        taught = override(Distill(arguments.student, tuple(arguments.set), hints=hints), arguments.distill)
        version = _teacher(arguments, registry)
        location = arguments.data_dir or version.tags.get("tandem.data_dir") or None
        plan = Plan(taught, read_source(arguments, location), read_compute(arguments))
        release, passed = build(version, plan, registry, arguments.cache_dir)
        comparison = json.loads(registry.read_artifact(release.run_id, "comparison.json"))
    except Interrupted as stop:
        print(f"optimization.build: {stop}", flush=True)
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, TrainingError) as error:
        sys.exit(f"optimization.build: {error}")
    Console().print(comparison_table(release.reference, comparison))
    if not passed:
        sys.exit(f"{release.reference} did not pass its gate; it is registered as candidate, the champion stays. "
                 "The build run's report.html in MLflow says which check failed")  # fmt: skip
    print(f"{release.reference} is the champion; serve it with: serve deploy serve_config.yaml")


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("optimization.build").main()
