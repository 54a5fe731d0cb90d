"""`python -m optimization.benchmark.cascade TASK`: a pair of models beside the best single one.

The models are Artifacts or Versions, or the given ResNets of CIFAR-10; each PyTorch model competes in FP32 and in INT8.
Calibration rows calibrate, gate rows choose, report rows are reported on.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optimization.benchmark.cascade_models import cached_logits
from optimization.benchmark.cascade_page import cascade_page
from optimization.benchmark.cascade_plots import draw_curve
from optimization.benchmark.cascade_study import TEMPERATURE_ROWS, Aim, Parts, Study, choose, report, resplits
from optimization.benchmark.cascade_subject import Subject, read_subject
from optimization.benchmark.cascade_times import BATCH_SIZES, Roles, row_times, time_rows
from optimization.cascade.calibration import Calibration
from optimization.cascade.plots import Spot, draw_cost, draw_resplits, draw_shift
from optimization.cascade.shift import Shift, measure_shift
from optimization.measure.host import describe_host
from optimization.runners.contract import Runner
from optimization.runners.open import open_runner
from training.benchmark.machine import command_line, write_report
from training.evaluation.page import png_bytes
from training.options import absolute_path, add_source_arguments, read_source
from training.task import Split, Task, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESPLITS = 200
SHIFT_ROWS = 1_000
GATE_TIMED_ROWS = 500
# From so few rows no threshold can be had with confidence, but one that holds on average.
FEW_ROWS, FEW_TEMPERATURE_ROWS, FEW_BOUND = 250, 25, 0.01


def study(subject: Subject, roles: Roles, logits_folder: Path, command: str, note: str) -> Study:
    """Everything, in the order in which rows may be read."""
    aim, rows = Aim(), subject.rows
    _say("logits")
    parts = {
        name: Parts(split.labels, cached_logits(subject.artifacts, split.inputs, logits_folder))
        for name, split in rows.items()
    }
    runners = {name: open_runner(artifact) for name, artifact in subject.artifacts.items()}
    _say("times before the choice, on gate rows")
    gate = rows["gate"].inputs[:GATE_TIMED_ROWS]
    times = row_times(time_rows(runners, roles, gate, 1, temperature=1.0, threshold=0.0), roles)
    _say("choosing the bound on the gate rows, the threshold on the calibration rows")
    chosen = choose(parts, roles, aim, times)
    found = chosen.calibration
    _say("the report rows")
    timed = tuple(
        time_rows(runners, roles, rows["report"].inputs, size, temperature=found.temperature, threshold=found.threshold)
        for size in BATCH_SIZES
    )
    reported = report(parts["report"], roles, aim, found, row_times(timed[0], roles))
    _say(f"{RESPLITS} resplits, three times")
    calibrated = len(rows["calibration"]), TEMPERATURE_ROWS
    few = (FEW_ROWS, FEW_TEMPERATURE_ROWS, FEW_BOUND)
    plans = tuple(dict.fromkeys([(*calibrated, FEW_BOUND), (*calibrated, chosen.max_harm), few]))
    everything = Parts.joined(parts.values())
    drawn = resplits(everything, roles, plans, RESPLITS)
    _say("the shifted set")
    return Study(
        task=subject.task.name,
        rows_by=subject.rows_by,
        models_by=subject.models_by,
        command=command,
        note=note,
        roles=roles,
        aim=aim,
        times=times,
        chosen=chosen,
        reported=reported,
        timed=timed,
        resplits=drawn,
        best_of_all=everything.accuracy(roles.best),
        shift=_shift(runners, roles, subject.task, rows["report"], found),
        host=describe_host(threads=1),
        cut_rows=tuple(len(split) for split in rows.values()),
        digests={name: artifact.digest for name, artifact in subject.artifacts.items()},
    )


def _shift(runners: Mapping[str, Runner], roles: Roles, task: Task, rows: Split, found: Calibration) -> Shift:
    return measure_shift(
        runners[roles.student],
        runners[roles.teacher],
        task,
        rows,
        temperature=found.temperature,
        threshold=found.threshold,
        max_harm=found.guarantee.max_harm,
        rows=SHIFT_ROWS,
    )


def _write(found: Study, folder: Path) -> None:
    page = cascade_page(found)
    write_report(folder, found.name, page, found.to_json())
    figures = {
        "curve": draw_curve(found.reported, found.chosen, found.roles),
        "cost": _draw_cost(found),
        "resplits": draw_resplits(found.resplits),
        "shift": draw_shift(found.shift),
    }
    for part, figure in figures.items():
        (folder / f"{found.name}-{part}.png").write_bytes(png_bytes(figure))
    print(page)


def _draw_cost(found: Study) -> "Figure":
    items, score = found.timed[0].items, found.reported.score
    times = {**found.timed[0].alone, **items}
    singles = [Spot(name, times[name].median_ms, accuracy) for name, accuracy in found.reported.accuracies.items()]
    pair = Spot("pair as measured", items["pair"].median_ms, score.accuracy, score.accuracy_interval)
    where = f"milliseconds a row, batch {found.timed[0].batch_size}, one thread"
    return draw_cost(found.reported.curve, singles, pair, found.roles.best, where)


def _run(arguments: argparse.Namespace) -> None:
    roles = Roles(arguments.student, arguments.teacher, arguments.best)
    source = read_source(arguments, arguments.data_dir)
    _say("reading models and rows, making the variants")
    subject = read_subject(
        arguments.task, source, arguments.weights, arguments.model, roles, arguments.work,
        read_settings(arguments.task, arguments.task_param),
    )  # fmt: skip
    command = command_line("optimization.benchmark.cascade")
    _write(study(subject, roles, arguments.work / "logits", command, arguments.note), arguments.out)


def _say(stage: str) -> None:
    print(f"cascade: {stage}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="optimization.benchmark.cascade", description="A pair of models beside the best single one."
    )
    parser.add_argument("task")
    parser.add_argument("--weights", type=absolute_path, metavar="FOLDER", help="with the given ResNets of CIFAR-10")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=FOLDER|MODEL@ALIAS", help="an Artifact or a Version"
    )
    parser.add_argument(
        "--task-param", action="append", default=[], metavar="NAME=VALUE", help="of models that are given by folder"
    )
    parser.add_argument("--student", required=True, help="what answers first: NAME-fp32, NAME-int8, a graph's NAME")
    parser.add_argument("--teacher", required=True, help="what answers the rest")
    parser.add_argument("--best", required=True, help="the best single variant, which the pair is held to")
    parser.add_argument("--note", default="", help="for the reader, such as who has read the report rows before")
    parser.add_argument("--out", type=absolute_path, required=True, metavar="FOLDER", help="for the report")
    parser.add_argument("--work", type=absolute_path, default=".tandem/benchmark/cascade", help="models and logits")
    add_source_arguments(parser)
    arguments = parser.parse_args()
    try:
        _run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"optimization.benchmark.cascade: {error}")


if __name__ == "__main__":
    importlib.import_module("optimization.benchmark.cascade").main()
