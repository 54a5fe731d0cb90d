"""`python -m optimization.benchmark.cascade`: a pair on CIFAR-10 beside the best single variant of its two models.

Weights that others trained: ResNet-20 and ResNet-56, FP32 and INT8. The 10,000 test images, which the weights never
saw, are cut by a hash: 1,000 calibrate, 4,000 choose, the others are reported on.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from optimization.benchmark.cascade_page import cascade_page
from optimization.benchmark.cascade_plots import draw_curve
from optimization.benchmark.cascade_study import (
    BATCH_SIZES,
    TEMPERATURE_ROWS,
    Aim,
    Parts,
    Roles,
    Study,
    choose,
    cut_parts,
    report,
    resplits,
    row_times,
    time_rows,
)
from optimization.benchmark.given_resnets import cached_logits, cut_rows, given_variants, official_test
from optimization.cascade.calibration import Calibration
from optimization.cascade.plots import Spot, draw_cost, draw_resplits, draw_shift
from optimization.cascade.shift import Shift, measure_shift
from optimization.measure.host import describe_host
from optimization.runners.contract import Runner
from optimization.runners.open import open_runner
from training.artifact import Artifact, load_artifact
from training.benchmark.machine import write_report
from training.evaluation.page import png_bytes
from training.options import absolute_path, add_source_arguments, read_source
from training.task import Split, Task, load_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "cascade"
RESPLITS = 200
SHIFT_ROWS = 1_000
GATE_TIMED_ROWS = 500
# From so few rows no threshold can be had with confidence, but one that holds on average.
FEW_ROWS, FEW_TEMPERATURE_ROWS, FEW_BOUND = 250, 25, 0.01


def study(task: Task, artifacts: dict[str, Artifact], roles: Roles, logits_folder: Path) -> Study:
    """Everything, in the order in which rows may be read."""
    test, aim = official_test(task), Aim()
    _say("logits on the test images")
    everything = Parts(test.labels, cached_logits(artifacts, test.inputs, logits_folder))
    cut = cut_rows(test)
    parts = cut_parts(everything, cut)
    runners = {name: open_runner(artifact) for name, artifact in artifacts.items()}
    _say("times before the choice, on gate rows")
    before = time_rows(runners, roles, test.inputs[cut[1][:GATE_TIMED_ROWS]], 1, temperature=1.0, threshold=0.0)
    times = row_times(before, roles)
    _say("choosing the bound on the gate rows, the threshold on the calibration rows")
    chosen = choose(parts, roles, aim, times)
    found = chosen.calibration
    _say("the report rows")
    pictures = test.inputs[cut[2]]
    timed = tuple(
        time_rows(runners, roles, pictures, size, temperature=found.temperature, threshold=found.threshold)
        for size in BATCH_SIZES
    )
    reported = report(parts["report"], roles, aim, found, row_times(timed[0], roles))
    _say(f"{RESPLITS} resplits, three times")
    plans = (
        (len(cut[0]), TEMPERATURE_ROWS, 0.01),
        (len(cut[0]), TEMPERATURE_ROWS, chosen.max_harm),
        (FEW_ROWS, FEW_TEMPERATURE_ROWS, FEW_BOUND),
    )
    drawn = resplits(everything, roles, plans, RESPLITS)
    _say("the shifted set")
    held_out = Split(test.inputs[cut[2]], test.labels[cut[2]])
    return Study(
        roles=roles,
        aim=aim,
        times=times,
        chosen=chosen,
        reported=reported,
        timed=timed,
        resplits=drawn,
        shift=_shift(runners, roles, task, held_out, found),
        host=describe_host(threads=1),
        cut_rows=tuple(len(part) for part in cut),
        digests={name: artifact.digest for name, artifact in artifacts.items()},
    )


def _shift(runners: dict[str, Runner], roles: Roles, task: Task, rows: Split, found: Calibration) -> Shift:
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
    write_report(folder, NAME, page, found.to_json())
    figures = {
        "curve": draw_curve(found.reported, found.chosen, found.roles),
        "cost": _draw_cost(found),
        "resplits": draw_resplits(found.resplits),
        "shift": draw_shift(found.shift),
    }
    for name, figure in figures.items():
        (folder / f"{NAME}-{name}.png").write_bytes(png_bytes(figure))
    print(page)


def _draw_cost(found: Study) -> "Figure":
    items, score = found.timed[0].items, found.reported.score
    times = {**found.timed[0].alone, **items}
    singles = [Spot(name, times[name].median_ms, accuracy) for name, accuracy in found.reported.accuracies.items()]
    pair = Spot("pair as measured", items["pair"].median_ms, score.accuracy, score.accuracy_interval)
    where = f"milliseconds a row, batch {found.timed[0].batch_size}, one thread"
    return draw_cost(found.reported.curve, singles, pair, found.roles.best, where)


def _run(arguments: argparse.Namespace) -> None:
    task = load_task("cifar10", read_source(arguments, arguments.data_dir))
    _say("making the variants")
    artifacts = given_variants(task, arguments.weights, arguments.work)
    for folder in arguments.model:
        artifacts[folder.name] = load_artifact(folder)
    roles = Roles(arguments.student, arguments.teacher, arguments.best)
    for name in (roles.student, roles.teacher, roles.best):
        if name not in artifacts:
            raise ValueError(f"there is no variant {name!r}: there are {', '.join(artifacts)}")
    _write(study(task, artifacts, roles, arguments.work / "logits"), arguments.out)


def _say(stage: str) -> None:
    print(f"cascade: {stage}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="optimization.benchmark.cascade", description="A pair on CIFAR-10 beside the best single variant."
    )
    parser.add_argument("--weights", type=absolute_path, required=True, metavar="FOLDER", help="with the two .th files")
    parser.add_argument("--out", type=absolute_path, required=True, metavar="FOLDER", help="for the report")
    parser.add_argument("--work", type=absolute_path, default=".tandem/benchmark/cascade", help="models and logits")
    parser.add_argument("--student", default="resnet20-int8")
    parser.add_argument("--teacher", default="resnet56-int8")
    parser.add_argument("--best", default="resnet56-int8", help="the best single variant, which the pair is held to")
    parser.add_argument(
        "--model", type=absolute_path, action="append", default=[], metavar="FOLDER", help="a further Artifact"
    )
    add_source_arguments(parser)
    arguments = parser.parse_args()
    try:
        _run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"optimization.benchmark.cascade: {error}")


if __name__ == "__main__":
    importlib.import_module("optimization.benchmark.cascade").main()
