"""`python -m training.evaluate MODEL@ALIAS`: how good a registered model is, where it fails and what held it back.

Weights that training registered are run by PyTorch. Graphs that a build exported need ONNX Runtime, which comes with
the floor above: `python -m optimization.evaluate` is this command for every Version.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.artifact import MANIFEST_FILE, Artifact, load_artifact
from training.evaluation.findings import Findings, Predict, examine
from training.evaluation.page import png_bytes
from training.evaluation.report import Report, findings_json, log_report, make_report
from training.evaluation.slices import Slicer, load_slicer
from training.lineage import task_params
from training.options import add_source_arguments, read_source
from training.registry import IDENTITY_TAG, Registry, Version
from training.task import Source, SplitName, Task, load_task

SPLITS: tuple[SplitName, ...] = ("val", "gate", "report")
CORRUPTION_ROWS = 500

# An Artifact and CPU threads -> its model as a function of batches.
Opener = Callable[[Artifact, int], Predict]


@dataclass(frozen=True)
class Request:
    """What an evaluation is asked for. `corruption_rows` is 0 where no corruption is to be measured."""

    split: SplitName = "val"
    slicer: Slicer | None = None
    corruption_rows: int = CORRUPTION_ROWS
    threads: int = 1


def open_module(artifact: Artifact, threads: int) -> Predict:
    """The PyTorch model of an Artifact; raises ValueError where it holds a graph of another runtime."""
    from training.module import load_module, predictor

    manifest = artifact.manifest
    if manifest.format != "torch":
        raise ValueError(
            f"{manifest.name} ({manifest.variant}) is an {manifest.format} graph, which PyTorch does not run: "
            "python -m optimization.evaluate does"
        )
    import torch

    torch.set_num_threads(threads)
    return predictor(load_module(artifact))


def evaluate_version(
    version: Version, source: Source, request: Request, registry: Registry, cache_dir: Path, open_model: Opener
) -> tuple[Findings, Report, str]:
    """Examine `version` on a split of its Task, and log it as a run of its own below the one that made the Version.

    Returns the run's id last. Raises ValueError where `version` is no single model.
    """
    if version.tags.get(IDENTITY_TAG, MANIFEST_FILE) != MANIFEST_FILE:
        raise ValueError(
            f"{version.reference} is no model but a Release, a pair of two: evaluate its teacher and its student, "
            "which are Versions of their own; how they do as a pair, the report of the build says that made it"
        )
    artifact = load_artifact(registry.fetch(version, cache_dir))
    task = load_task(artifact.manifest.task, source, task_params(version))
    _require_same_reading(version, artifact, task)
    tags = {
        "tandem.version": version.reference,
        "tandem.digest": version.digest,
        "tandem.split": request.split,
    }
    made = registry.run(version.run_id)
    with registry.start_run(task.name, f"evaluate {version.reference} on {request.split}", tags, parent=made) as run:
        findings = examine(
            open_model(artifact, request.threads),
            task,
            request.split,
            slicer=request.slicer,
            corruption_rows=request.corruption_rows,
            track=_progress,
        )
        title = f"{version.reference} on the {request.split} split"
        report = make_report(title, _facts(version, artifact, task, request), findings, task)
        log_report(run, report, findings)
    return findings, report, run.run_id


def _require_same_reading(version: Version, artifact: Artifact, task: Task) -> None:
    """A row must mean to the model what it meant in training."""
    reason = artifact.misreads(task.encoding, task.files)
    if reason:
        raise ValueError(
            f"{version.reference} {reason}: evaluate on the data that the model was trained with, or train it anew "
            "where the task was changed"
        )


def write_report(folder: Path, findings: Findings, report: Report) -> None:
    """report.html, evaluation.json and plots/*.png into `folder`; what is there under these names is replaced."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(report.html)
    (folder / "evaluation.json").write_text(findings_json(findings))
    for name, figure in report.figures.items():
        (folder / "plots" / f"{name}.png").write_bytes(png_bytes(figure))


def _facts(version: Version, artifact: Artifact, task: Task, request: Request) -> dict[str, str]:
    manifest = artifact.manifest
    same = task.data_hash == version.tags.get("tandem.data_hash")
    facts = {
        "Version": f"{version.reference} ({manifest.variant}, {manifest.format}, {manifest.precision})",
        "Model file": f"{artifact.size_bytes:,} bytes",
        "Digest": version.digest,
        "Task": f"{manifest.task}, {len(task.splits[request.split]):,} rows of the {request.split} split",
        "Data": "the same as it was trained on" if same else "not what it was trained on: the splits' contents differ",
        "Recipe": version.tags.get("tandem.recipe", "unknown"),
    }
    if request.split == "report":
        facts["Published"] = "these are the published figures: nothing may be chosen by them"
    return facts


def _progress(steps: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(list(steps), "corruptions", console=console, transient=True, disable=not console.is_terminal)


def run_command(program: str, open_model: Opener) -> None:
    """The command line of an evaluation, for models that `open_model` opens."""
    arguments = _parser(program).parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        registry = Registry()
        version = registry.resolve(arguments.reference)
        kept = version.tags.get("tandem.data_dir")
        source = read_source(arguments, arguments.data_dir or kept or None)
        if arguments.corruption_rows < 1:
            raise ValueError(
                f"--corruption-rows is {arguments.corruption_rows}: leave corruptions out by --no-corruptions"
            )
        request = Request(
            split=arguments.split,
            slicer=load_slicer(arguments.slices) if arguments.slices else None,
            corruption_rows=arguments.corruption_rows if arguments.corruptions else 0,
            threads=arguments.threads,
        )
        findings, report, run_id = evaluate_version(version, source, request, registry, arguments.cache_dir, open_model)
        if arguments.out is not None:
            write_report(arguments.out, findings, report)
    except (ValueError, OSError) as error:
        sys.exit(f"{program}: {error}")
    _tell(report, request)
    print(f"report.html is in MLflow's run {run_id}" + (f" and in {arguments.out}" if arguments.out else ""))


def _tell(report: Report, request: Request) -> None:
    if request.split == "report":
        print("These are published figures, of the split that is read for nothing else: choose nothing by them.")
    summary = report.summary
    for question, sentences in (
        ("Is it good?", summary.good),
        ("Where does it fail?", summary.fails),
        ("What held it back?", summary.held_back),
    ):
        print(question)
        for sentence in sentences:
            print(f"  {sentence}")


def _parser(program: str) -> argparse.ArgumentParser:
    parser: Any = argparse.ArgumentParser(prog=program, description="Evaluate a registered model and log a report.")
    parser.add_argument("reference", help="the Version: MODEL@ALIAS or MODEL@NUMBER")
    parser.add_argument("--split", choices=SPLITS, default="val", help="report: for published figures alone")
    parser.add_argument("--slices", metavar="MODULE:CALLABLE", help="(inputs, labels) -> name -> bool mask a row")
    parser.add_argument("--corruptions", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--corruption-rows", type=int, default=CORRUPTION_ROWS, help="rows that are corrupted")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write report.html, the figures and plots there too")
    add_source_arguments(parser)
    parser.add_argument("--cache-dir", type=Path, default=Path(".tandem/cache"), help="where Versions are kept")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="CPU threads")
    made: argparse.ArgumentParser = parser
    return made


def main() -> None:
    run_command("training.evaluate", open_module)


if __name__ == "__main__":
    # Run the imported module's main: a Task built by training.tasks is of its class, not of __main__'s.
    importlib.import_module("training.evaluate").main()
