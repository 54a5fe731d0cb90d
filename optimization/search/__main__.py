"""`python -m optimization.search MODEL@ALIAS`: distil x prune x quantize, to the front of accuracy, time and size."""

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from optimization.build import student_reference
from optimization.search.choice import Wish
from optimization.search.page import Findings
from optimization.search.search import CANDIDATE, Outcome, Request, search
from optimization.search.searching import Rungs
from optimization.search.space import default_space, read_space
from optimization.table import size_text
from training.artifact import load_artifact
from training.lineage import task_params
from training.options import absolute_path, add_source_arguments, read_source
from training.recipe import Recipe
from training.recipes import load_recipe
from training.registry import Registry

INTERRUPTED = 130  # the exit status of what Ctrl-C ended


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimization.search",
        description="Search pipelines of distillation, pruning and quantization for the best that keeps your limits.",
    )
    parser.add_argument("reference", help="the teacher's Version: MODEL@ALIAS or MODEL@NUMBER")
    parser.add_argument(
        "--objective", choices=("throughput", "latency", "size", "accuracy"), default="throughput", help="%(default)s"
    )
    parser.add_argument("--max-accuracy-drop", type=float, default=1.0, metavar="POINTS",
                        help="of the teacher's accuracy that may be lost (default %(default)s)")  # fmt: skip
    parser.add_argument("--max-p95-ms", type=float, help="of one row")
    parser.add_argument("--max-size-kb", type=float, help="of the model file")
    parser.add_argument("--space", type=absolute_path, metavar="FILE", help="YAML: a list for each pass")
    parser.add_argument("--show-space", action="store_true", help="print the pipelines, and do nothing")
    parser.add_argument("--rungs", type=_shares, default=Rungs.shares, metavar="0.25,1", help="shares of the epochs")
    parser.add_argument("--keep", type=float, default=Rungs.keep, help="the share that goes on (default %(default)s)")
    parser.add_argument("--recipe", help="by which a teacher learns again, pruned or for INT8 (default: its own)")
    parser.add_argument("--student", metavar="RECIPE", help="the student's (default: the teacher's, with _student)")
    parser.add_argument("--threads", type=int, default=1, help="of each training, and of the deployment (default 1)")
    parser.add_argument("--max-concurrent", type=int, help="pipelines at once (default: what the cluster holds)")
    parser.add_argument("--name", help="of the search; the same name goes on with it (default: the teacher's)")
    parser.add_argument("--fresh", action="store_true", help="forget what a search of this name has found")
    parser.add_argument("--storage", type=absolute_path, default=".tandem/search", help="where searches are kept")
    parser.add_argument("--cache-dir", type=absolute_path, default=".tandem/cache", help="where Versions are kept")
    add_source_arguments(parser)
    return parser


def _request(arguments: argparse.Namespace, registry: Registry) -> Request:
    version = registry.resolve(arguments.reference)
    reference = arguments.recipe or version.tags.get("tandem.recipe", "")
    teacher = load_recipe(reference) if reference else None
    if teacher is not None:
        teacher = dataclasses.replace(teacher, task_params=task_params(version))
    student_name = arguments.student or student_reference(version)
    student = _student(student_name, required=arguments.student is not None)
    encoding = load_artifact(registry.fetch(version, arguments.cache_dir)).manifest.encoding
    space = default_space(encoding, teacher, student)
    if arguments.space is not None:
        space = read_space(arguments.space, space)
    drop = arguments.max_accuracy_drop / 100
    size = None if arguments.max_size_kb is None else int(1000 * arguments.max_size_kb)
    location = arguments.data_dir or version.tags.get("tandem.data_dir") or None
    # The trials of a cluster read the files as those of a sweep do.
    return Request(
        name=arguments.name or f"{version.name}-{version.number}",
        version=version,
        space=space,
        rungs=Rungs(arguments.rungs, arguments.keep),
        wish=Wish(arguments.objective, drop, arguments.max_p95_ms, size),
        teacher_recipe=teacher,
        student_recipe=student_name,
        source=read_source(arguments, location),
        threads=arguments.threads,
        at_once=arguments.max_concurrent,
        storage=arguments.storage,
        fresh=arguments.fresh,
    )


def _student(name: str, required: bool) -> Recipe | None:
    try:
        return load_recipe(name)
    except ValueError:
        if required:
            raise
        return None


def front_table(found: Findings) -> Table:
    """The front on a terminal, the most accurate first."""
    table = Table(title=found.title, title_justify="left", caption=found.choice.reason, caption_justify="left")
    table.add_column("pipeline")
    for heading in ("accuracy", "p50 ms", "p95 ms", "rows/s", "speed-up", "size", "Release"):
        table.add_column(heading, justify="right")
    for one in found.front:
        chosen = one.number == found.choice.number
        ratio = one.speedup_over(found.teacher)
        table.add_row(
            ("→ " if chosen else "") + one.pipeline.label,
            f"{one.made.accuracy:.2%}",
            f"{one.latency.at(1).p50_ms:.3f}",
            f"{one.latency.at(1).p95_ms:.3f}",
            f"{one.rows_per_s:,.0f}",
            f"{ratio.ratio:.2f}x" if ratio.is_faster or ratio.is_slower else "none shown",
            size_text(one.made.size_bytes),
            found.releases.get(one.number, found.versions.get(one.number, "")),
            style="bold" if chosen else "",
        )
    return table


def _tell(request: Request, outcome: Outcome) -> None:
    found = outcome.found
    if found is None:
        print("interrupted: the same command goes on")
        sys.exit(INTERRUPTED)
    Console().print(front_table(found))
    page = request.storage / request.name / "search.html"
    print(f"the page: {page} (search.html of MLflow's run {outcome.run_id})")
    if found.choice.number is None:
        sys.exit(f"optimization.search: {found.choice.reason}. Allow more, or search a wider --space")
    if outcome.release is None:
        print("the teacher itself is what was asked for: there is nothing to pair it with")
        return
    if not outcome.passed:
        sys.exit(f"{outcome.release.reference} did not pass its gate as a pair; it is registered, and no alias moved")
    print(f"{outcome.release.reference} is {outcome.release.name}@{CANDIDATE}; "
          f"next: python -m optimization.promote {outcome.release.name}@{CANDIDATE}")  # fmt: skip


def _show(request: Request) -> None:
    for pipeline in request.space.pipelines():
        print(pipeline.label)


def main() -> None:
    arguments = _parser().parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        registry = Registry()
        request = _request(arguments, registry)
        if arguments.show_space:
            _show(request)
            return
        outcome = search(request, registry, arguments.cache_dir)
    except (ValueError, OSError) as error:
        sys.exit(f"optimization.search: {error}")
    _tell(request, outcome)


if __name__ == "__main__":
    # Run the imported module's main, so that what trials unpickle is of its classes and not of __main__'s.
    importlib.import_module("optimization.search.__main__").main()
