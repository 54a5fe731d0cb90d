"""`python -m optimization.prune MODEL@ALIAS`: prune a registered model, fine-tune it, register what comes of it."""

import argparse
import importlib
import sys
from pathlib import Path

from training.options import absolute_path, add_training_arguments


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="optimization.prune", description="Prune a registered model, fine-tune it, register what came of it."
    )
    parser.add_argument("reference", help="the Version: MODEL@ALIAS or MODEL@NUMBER, as training registered it")
    parser.add_argument("--amount", type=float, help="the share of channels, blocks or (--sparse) weights to take out")
    parser.add_argument("--speedup", type=float, help="take out as many as make it so many times as fast, measured")
    parser.add_argument("--sparse", action="store_true", help="set single weights to zero; nothing is taken out")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. fine_tune.epochs=3")
    parser.add_argument("--recipe", help="to learn again by (default: the model's own)")
    parser.add_argument("--recipe-set", action="append", default=[], metavar="FIELD=VALUE", help="override the recipe")
    parser.add_argument("--sensitivity", action="store_true", help="measure and draw what each layer can lose")
    parser.add_argument(
        "--cache-dir", type=absolute_path, default=".tandem/cache", help="where fetched Versions are kept"
    )
    add_training_arguments(parser)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    importlib.import_module("optimization.prune.command").run(arguments)


if __name__ == "__main__":
    main()
