"""`python -m optimization.measure MODEL@ALIAS ...`: measure Versions side by side, and keep what was found."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from optimization.measure.latency import speedup
from optimization.measure.measurement import Measurement, log_measurement
from optimization.measure.measuring import Setting, Subject, measure
from optimization.table import size_text
from training.artifact import load_artifact
from training.lineage import task_params
from training.options import absolute_path, add_source_arguments, read_source
from training.registry import Registry, Version
from training.task import load_task


def fetch_subject(registry: Registry, version: Version, cache_dir: Path) -> Subject:
    """The model of `version` and, where the registry has it, the one that it was made from.

    Raises ValueError where `version` is no single model.
    """
    artifact = load_artifact(registry.fetch(version, cache_dir))
    made_from = artifact.manifest.parent
    found = registry.find(version.name, made_from) if made_from is not None else None
    if found is None:
        return Subject(version.reference, artifact)
    return Subject(version.reference, artifact, load_artifact(registry.fetch(found, cache_dir)), found.reference)


def measurement_table(measurements: Sequence[Measurement]) -> Table:
    """A row a Version; speed-ups are over the first one, and only those that their interval shows."""
    first = measurements[0]
    host, sizes = first.host, [batch.batch_size for batch in first.latency.batches]
    table = Table(
        title=f"{first.rows:,} rows of the {first.split} split; {host.threads} thread(s) of {host.cpu}",
        title_justify="left",
        caption=f"Load meanwhile: {first.load}.\nEnergy: {first.cost.energy.note}.",
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("accuracy", "size", "memory", "start s", *(f"p50/p95/p99 ms, {size}" for size in sizes)):
        table.add_column(heading, justify="right")
    for heading in ("rows/s", "speed-up"):
        table.add_column(heading, justify="right")
    if first.cost.per_hour is not None:
        table.add_column("cost a million", justify="right")
    for found in measurements:
        best = max(batch.rows_per_s for batch in found.latency.batches)
        ratio = speedup(first.latency, found.latency, sizes[0])
        shown = f"{ratio.ratio:.2f}x" if ratio.is_faster or ratio.is_slower else "none shown"
        cost = [] if found.cost.per_million_rows is None else [f"{found.cost.per_million_rows:.3g}"]
        table.add_row(
            f"{found.version} ({found.variant})",
            f"{found.accuracy:.2%}",
            size_text(found.footprint.size_bytes),
            size_text(found.footprint.peak_bytes),
            f"{found.footprint.start_s:.2f}",
            *(f"{b.p50_ms:.2f}/{b.p95_ms:.2f}/{b.p99_ms:.2f}" for b in found.latency.batches),
            f"{best:,.0f}",
            "reference" if found is first else shown,
            *cost,
        )
    return table


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimization.measure",
        description="Measure Versions of one task side by side, with the machine to themselves.",
    )
    parser.add_argument(
        "references", nargs="+", metavar="MODEL@ALIAS", help="or MODEL@NUMBER; the first is the reference"
    )
    parser.add_argument(
        "--split", choices=("gate", "report"), default="gate", help="report: for published figures alone"
    )
    parser.add_argument("--threads", type=int, default=Setting.threads, help="CPU threads of each Runner")
    parser.add_argument("--batch-sizes", type=_sizes, default=Setting.batch_sizes, metavar="1,8,32")
    parser.add_argument("--rounds", type=int, default=Setting.rounds, help="interleaved rounds")
    parser.add_argument("--calls", type=int, default=Setting.calls, help="calls a round and batch size")
    parser.add_argument("--repeats", type=int, default=Setting.repeats, help="fresh processes for memory and start-up")
    parser.add_argument("--cost-per-hour", type=float, metavar="RATE", help="of the machine, in any currency")
    parser.add_argument("--wait-s", type=float, default=Setting.wait_s, help="for the machine to be free")
    parser.add_argument("--no-log", action="store_true", help="show it, and keep nothing in MLflow")
    parser.add_argument("--cache-dir", type=absolute_path, default=".tandem/cache", help="where Versions are kept")
    add_source_arguments(parser)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    registry = Registry()
    versions = [registry.resolve(reference) for reference in dict.fromkeys(arguments.references)]
    subjects = {v.reference: fetch_subject(registry, v, arguments.cache_dir) for v in versions}
    manifests = [subject.artifact.manifest for subject in subjects.values()]
    if len({manifest.task for manifest in manifests}) > 1:
        raise ValueError(
            f"these are of several tasks ({', '.join(m.task for m in manifests)}): measure one task at a time"
        )
    location = arguments.data_dir or versions[0].tags.get("tandem.data_dir") or None
    task = load_task(manifests[0].task, read_source(arguments, location), task_params(versions[0]))
    for version in versions:
        if version.tags.get("tandem.data_hash") != task.data_hash:
            print(f"note: {version.reference} was made from other data than these; its accuracy may be of rows it saw")
    setting = Setting(
        threads=arguments.threads,
        batch_sizes=arguments.batch_sizes,
        rounds=arguments.rounds,
        calls=arguments.calls,
        repeats=arguments.repeats,
        cost_per_hour=arguments.cost_per_hour,
        wait_s=arguments.wait_s,
    )
    found = measure(subjects, task, arguments.split, setting)
    if not arguments.no_log:
        for version in versions:
            log_measurement(registry, version, found[version.reference])
    Console().print(measurement_table(list(found.values())))


def main() -> None:
    arguments = _parser().parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        _run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"optimization.measure: {error}")


if __name__ == "__main__":
    # Run the imported module's main: a Task built by training.tasks is of its class, not of __main__'s.
    importlib.import_module("optimization.measure.__main__").main()
