"""`python -m optimization.benchmark.distillation RECIPE --seeds 3`: what a teacher does for a student, at which cost.

The teacher of RECIPE is trained once; the student's recipe is trained from each seed twice, by labels alone and under
the teacher. Seeds are paired: both begin with the same weights and read the same rows in the same order. Accuracy is of
the gate split. After each student the report is written anew, and the same command goes on where it was cut off.
"""

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from optimization.benchmark.teaching import (
    ARMS,
    Arm,
    Lesson,
    Outcome,
    gate_accuracy,
    parameters_of,
    step_seconds,
    train_alone,
)
from optimization.distill.parameters import Distill, Hint
from training.artifact import Artifact, load_artifact
from training.benchmark.machine import command_line, describe, machine, write_report
from training.benchmark.statistics import Difference, mean_difference, paired_ratio
from training.launch.job import Interrupted, identity_of
from training.loop.training import TrainingError
from training.options import absolute_path, add_training_arguments, read_compute, read_source
from training.recipe import Recipe, override
from training.recipes import load_recipe
from training.registry import Registry
from training.task import Task, load_task
from training.train import EXIT_INTERRUPTED

SMALLER, WITHIN = 3.0, 0.01


@dataclasses.dataclass(frozen=True)
class Findings:
    """`teacher_accuracy` is of the gate split; `steps` are seconds a step of both arms, round by round."""

    parameters: Distill
    teacher: Artifact
    teacher_accuracy: float
    outcomes: tuple[Outcome, ...] = ()
    steps: dict[Arm, list[float]] = dataclasses.field(default_factory=dict)

    def accuracies(self, arm: Arm) -> list[float]:
        """Of the seeds that both arms have, in order."""
        found = {(one.arm, one.seed): one.accuracy for one in self.outcomes}
        return [found[arm, seed] for seed in sorted({one.seed for one in self.outcomes})
                if all((each, seed) in found for each in ARMS)]  # fmt: skip


def teacher_of(arguments: argparse.Namespace, recipe: Recipe, task: Task) -> Artifact:
    """The folder or the Version that was named; else the recipe's own, trained here once."""
    if arguments.teacher and "@" in arguments.teacher:
        registry = Registry()
        return load_artifact(registry.fetch(registry.resolve(arguments.teacher), arguments.work / "cache"))
    if arguments.teacher:
        return load_artifact(Path(arguments.teacher).resolve())
    folder: Path = arguments.work / f"teacher-{identity_of(recipe, task.data_hash)[:12]}"
    source = read_source(arguments, arguments.data_dir)
    return train_alone(recipe, task, source, read_compute(arguments), folder, "teacher")


def measure(arguments: argparse.Namespace) -> Findings:
    hints = tuple(map(Hint.parse, arguments.hint))
    parameters = override(Distill(arguments.student, tuple(arguments.set), hints=hints), arguments.distill)
    teacher_recipe = override(load_recipe(arguments.recipe), arguments.teacher_set)
    task = load_task(teacher_recipe.task, read_source(arguments, arguments.data_dir), teacher_recipe.task_params)
    teacher = teacher_of(arguments, teacher_recipe, task)
    recipe = parameters.recipe(f"{arguments.recipe}_student", teacher_recipe.task_params)
    compute = read_compute(arguments)
    torch.set_num_threads(compute.threads)
    lesson = Lesson(task, read_source(arguments, arguments.data_dir), compute, teacher, parameters)
    before = known(arguments.out / f"{report_name(arguments)}.json")
    findings = Findings(parameters, teacher, gate_accuracy(teacher, task))
    for seed in range(arguments.seeds):
        for arm in ARMS:
            seeded = dataclasses.replace(recipe, seed=seed)
            outcome = before.get(lesson.identity(arm, seeded)) or lesson.train(arm, seeded)
            print(f"seed {seed}, {arm}: {outcome.accuracy:.2%} of the gate split", flush=True)
            findings = dataclasses.replace(findings, outcomes=(*findings.outcomes, outcome))
            write(arguments, findings)
    steps = step_seconds(lesson, recipe, arguments.steps, arguments.rounds) if arguments.rounds > 1 else {}
    return dataclasses.replace(findings, steps=steps)


def known(path: Path) -> dict[str, Outcome]:
    """What an earlier call of the same command found, by identity; nothing where there is no such file."""
    try:
        return {one["identity"]: Outcome(**one) for one in json.loads(path.read_text())["outcomes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def report_name(arguments: argparse.Namespace) -> str:
    return f"distillation-{arguments.recipe.replace(':', '.')}"


def write(arguments: argparse.Namespace, findings: Findings) -> str:
    figures: dict[str, Any] = {
        "recipe": arguments.recipe,
        "distill": findings.parameters.to_json(),
        "teacher": {
            "digest": findings.teacher.digest,
            "accuracy": findings.teacher_accuracy,
            "parameters": parameters_of(findings.teacher) if findings.teacher.manifest.format == "torch" else None,
            "size_bytes": findings.teacher.size_bytes,
        },
        "outcomes": [asdict(one) for one in findings.outcomes],
        "step_seconds": findings.steps,
    }
    page = report(arguments.recipe, findings)
    write_report(arguments.out, report_name(arguments), page, figures)
    return page


def report(recipe: str, findings: Findings) -> str:
    student = findings.outcomes[0]
    default = Distill().to_json()
    changed = {name: value for name, value in findings.parameters.to_json().items() if value != default[name]}
    lines = [
        f"# A student of `{recipe}` with its teacher and without",
        "",
        f"{describe(machine())}. Accuracy of the gate split, seeds paired: both students of a seed begin with the same "
        f"weights and read the same rows in the same order. Distillation: {changed or 'as it is by default'}.",
        "",
        f"The teacher is right in {findings.teacher_accuracy:.2%} and takes {findings.teacher.size_bytes:,} bytes; the "
        f"student takes {student.size_bytes:,} ({student.parameters:,} parameters), "
        f"{findings.teacher.size_bytes / student.size_bytes:.2f} times less.",
        "",
        "| seed | alone | taught | difference, points |",
        "|---|---|---|---|",
    ]
    for seed, (alone, taught) in enumerate(zip(*(findings.accuracies(arm) for arm in ARMS), strict=True)):
        lines.append(f"| {seed} | {alone:.2%} | {taught:.2%} | {100 * (taught - alone):+.2f} |")
    lines += ["", *judgements(findings), ""]
    if findings.steps:
        ratio = paired_ratio(findings.steps["taught"], findings.steps["alone"])
        medians = {arm: sorted(values)[len(values) // 2] for arm, values in findings.steps.items()}
        lines += [
            f"A step takes {1000 * medians['alone']:.1f} ms alone and {1000 * medians['taught']:.1f} ms taught "
            f"(medians of {ratio.n} rounds in turns), {ratio.mean:.2f} times as long (95 % interval {ratio.low:.2f} to "
            f"{ratio.high:.2f}).",
            "",
        ]
    command = command_line("optimization.benchmark.distillation")
    return "\n".join([*lines, f"Measured by `{command}`.", ""])


def judgements(findings: Findings) -> list[str]:
    """One line an aim; of means over the seeds, with their intervals."""
    alone, taught = (findings.accuracies(arm) for arm in ARMS)
    smaller = findings.teacher.size_bytes / findings.outcomes[0].size_bytes
    lines = [f"- {smaller:.2f} times smaller than its teacher; at least {SMALLER:g} wanted: {_met(smaller >= SMALLER)}"]
    if len(taught) < 2:
        return [*lines, "- two seeds or more make an interval"]
    gain = mean_difference(taught, alone)
    lost = mean_difference(taught, [findings.teacher_accuracy] * len(taught))
    return [
        *lines,
        f"- taught less alone: {_points(gain)}; above 0 wanted: {_met(gain.low > 0)}",
        f"- taught less its teacher: {_points(lost)}; at least {-100 * WITHIN:g} wanted: {_met(lost.mean >= -WITHIN)} "
        f"by the mean, {_met(lost.low >= -WITHIN)} by the interval",
    ]


def _points(difference: Difference) -> str:
    return (
        f"{100 * difference.mean:+.2f} points (95 % interval over {difference.n} seeds {100 * difference.low:+.2f} to "
        f"{100 * difference.high:+.2f})"
    )


def _met(met: bool) -> str:
    return "met" if met else "missed"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="optimization.benchmark.distillation")
    parser.add_argument("recipe", help="the teacher's; the student's is its name with _student")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher", metavar="FOLDER|MODEL@ALIAS", help="instead of one that is trained here")
    parser.add_argument("--teacher-set", action="append", default=[], metavar="FIELD=VALUE", help="of its recipe")
    parser.add_argument("--student", metavar="RECIPE")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the student's recipe")
    parser.add_argument("--distill", action="append", default=[], metavar="FIELD=VALUE", help="e.g. objective=dist")
    parser.add_argument("--hint", action="append", default=[], metavar="LAYER:LAYER", help="of teacher and student")
    parser.add_argument("--steps", type=int, default=20, help="that are timed at a time")
    parser.add_argument("--rounds", type=int, default=10, help="of timing; 0: none")
    parser.add_argument("--out", type=absolute_path, default=Path("loadtests/reports/distillation").resolve())
    parser.add_argument("--work", type=absolute_path, default=Path(".tandem/benchmark").resolve())
    add_training_arguments(parser)
    arguments = parser.parse_args(given)
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        if arguments.seeds < 1:
            raise ValueError(f"--seeds is {arguments.seeds}: train at least one student of each kind")
        findings = measure(arguments)
    except Interrupted as stop:
        print(f"optimization.benchmark.distillation: {stop}", flush=True)
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, TrainingError) as error:
        sys.exit(f"optimization.benchmark.distillation: {error}")
    print(write(arguments, findings))


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("optimization.benchmark.distillation").main()
