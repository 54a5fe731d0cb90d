"""`python -m optimization.evaluate MODEL@ALIAS`: `training.evaluate` for every Version, whichever runtime it needs."""

import importlib

from optimization.runners.open import open_runner
from training.evaluate import run_command


def main() -> None:
    run_command("optimization.evaluate", open_runner)


if __name__ == "__main__":
    # Run the imported module's main: a Task built by training.tasks is of its class, not of __main__'s.
    importlib.import_module("optimization.evaluate").main()
