"""`python -m training.tune RECIPE --search asha --range FIELD=...`: search over the fields of a recipe."""

import argparse
import importlib
import sys
from pathlib import Path

from training.launch.job import Compute
from training.loop.training import TrainingError
from training.options import absolute_path, add_source_arguments, read_source
from training.recipe import override
from training.recipes import load_recipe
from training.registry import Registry
from training.train import CANDIDATE, train
from training.tuning.ledger import Trial, ranked
from training.tuning.logbook import brief
from training.tuning.method import METHODS, Method
from training.tuning.report import set_options
from training.tuning.space import SYNTAX, settings
from training.tuning.sweep import Outcome, Request, SweepError, run_sweep

SHOWN = 10  # rows of the table on the terminal
INTERRUPTED = 130  # the exit status of what Ctrl-C ended


def main() -> None:
    arguments = _parser().parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        request = _request(arguments)
        registry = Registry()
        outcome = run_sweep(request, registry)
        _show(request, outcome)
        if arguments.train_best and outcome.best and outcome.complete:
            _train_best(request, outcome.best, registry)
    except (ValueError, SweepError, TrainingError) as error:
        sys.exit(f"training.tune: {error}")
    if not outcome.complete:
        sys.exit(INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.tune", description="Search over the fields of a recipe.")
    parser.add_argument("recipe", help="a named recipe (training/recipes.py) or module:callable")
    parser.add_argument("--search", choices=METHODS, default="asha", help="how points are chosen and trials given up")
    parser.add_argument("--range", action="append", default=[], metavar="FIELD=KIND:VALUES", help=SYNTAX)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="the same for every trial")
    parser.add_argument("--trials", type=int, default=12, help="how many (default 12; a grid has as many as points)")
    parser.add_argument("--grid-points", type=int, default=3, help="of each range of numbers in a grid (default 3)")
    parser.add_argument("--grace", type=int, default=1, help="epochs before asha or hyperband may stop a trial")
    parser.add_argument("--reduction", type=int, default=3, help="of so many trials one goes on (default 3)")
    parser.add_argument("--interval", type=int, default=1, help="epochs between two exchanges of pbt (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the points; the recipe's own is its field")
    parser.add_argument("--name", help="of the sweep (default: recipe and search); the same name goes on with it")
    parser.add_argument("--fresh", action="store_true", help="forget what a sweep of this name has found")
    parser.add_argument("--num-workers", type=int, default=1, help="Ray Train workers of each trial (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="and CPUs of each worker (default 1)")
    parser.add_argument("--gpus", type=float, help="of each worker; a share lets trials share one (default 1 or none)")
    parser.add_argument("--driver-cpus", type=float, default=1.0, help="of what waits for several workers (default 1)")
    parser.add_argument("--max-concurrent", type=int, help="trials at once (default: what the cluster holds)")
    parser.add_argument("--train-best", action="store_true", help="train by the best point and register the model")
    add_source_arguments(parser)
    parser.add_argument("--storage", type=absolute_path, default=".tandem/tune", help="where sweeps are kept")
    return parser


def _request(arguments: argparse.Namespace) -> Request:
    recipe = override(load_recipe(arguments.recipe), arguments.set)
    return Request(
        name=arguments.name or f"{arguments.recipe.replace(':', '.')}-{arguments.search}",
        reference=arguments.recipe,
        recipe=recipe,
        source=read_source(arguments, arguments.data_dir),
        method=Method(arguments.search, arguments.seed, arguments.grace, arguments.reduction, arguments.interval),
        ranges=tuple(arguments.range),
        trials=arguments.trials,
        grid_points=arguments.grid_points,
        workers=arguments.num_workers,
        threads=arguments.threads,
        gpus=arguments.gpus,
        driver_cpus=arguments.driver_cpus,
        wanted_at_once=arguments.max_concurrent,
        storage=arguments.storage,
        fresh=arguments.fresh,
    )


def _show(request: Request, outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    trials = ranked(outcome.trials.values())
    shown = Table("Trial", "Val accuracy", "Best epoch", "Ended", "Point")
    for trial in trials[:SHOWN]:
        best = (f"{trial.accuracy:.2%}", str(trial.best.epoch)) if trial.best else ("", "")
        shown.add_row(str(trial.number), *best, trial.status, brief(trial.point))
    Console().print(f"{request.name}: the best of {len(trials)} trials", shown)
    if outcome.best:
        print(f"best: python -m training.train {request.reference} {set_options(outcome.best)}")
    if not outcome.complete:
        print("interrupted: the same command goes on")


def _train_best(request: Request, best: Trial, registry: Registry) -> None:
    recipe = override(request.recipe, settings(best.point))
    compute = Compute(request.workers, threads=request.threads, storage=str(request.storage.parent / "train"))
    version = train(request.reference, recipe, request.source, registry, compute)
    print(f"registered {version.reference} (alias {CANDIDATE})")


if __name__ == "__main__":
    # Run the imported module's main, so that what trials unpickle is of its classes and not of __main__'s.
    importlib.import_module("training.tune").main()
