"""What `python -m optimization.prune` does with its arguments."""

import argparse
import dataclasses
import sys

from optimization.prune.publish import Order, prune_version
from optimization.prune.settings import Prune, Sparsify
from training.launch.job import Interrupted
from training.lineage import task_params
from training.loop.training import TrainingError
from training.options import read_compute, read_source
from training.recipe import override
from training.recipes import load_recipe
from training.registry import Registry, Version

EXIT_INTERRUPTED = 143  # what a shell says of a command that SIGTERM ended


def run(arguments: argparse.Namespace) -> None:
    """Prune, register and say under which name; exits with the reason where that fails."""
    try:
        registry = Registry()
        version = registry.resolve(arguments.reference)
        made = prune_version(version, _order(arguments, version), registry, arguments.cache_dir)
    except Interrupted as stop:
        print(f"optimization.prune: {stop}", flush=True)
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, TrainingError) as error:
        sys.exit(f"optimization.prune: {error}")
    print(
        f"registered {made.reference}, val accuracy {float(made.tags['tandem.val_accuracy']):.2%}; "
        f"prune.json of the run {made.run_id} says what was taken out. "
        f"Next: python -m optimization.build {made.reference}"
    )


def _order(arguments: argparse.Namespace, version: Version) -> Order:
    reference = arguments.recipe or version.tags.get("tandem.recipe", "")
    # It learns the task again that it has learned.
    recipe = dataclasses.replace(load_recipe(reference), task_params=task_params(version))
    location = arguments.data_dir or version.tags.get("tandem.data_dir") or None
    return Order(
        _settings(arguments),
        reference,
        override(recipe, arguments.recipe_set),
        read_source(arguments, location),
        read_compute(arguments),
        arguments.sensitivity,
    )


def _settings(arguments: argparse.Namespace) -> Prune | Sparsify:
    if not arguments.sparse:
        return override(Prune(arguments.amount, arguments.speedup), arguments.set)
    if arguments.speedup is not None:
        raise ValueError("--speedup: zeros among the weights make nothing faster; leave out --sparse or --speedup")
    return override(Sparsify(**({"amount": arguments.amount} if arguments.amount is not None else {})), arguments.set)
