"""`python -m optimization.adopt --from-torch ... --weights FILE --task TASK`: register a model from elsewhere."""

import argparse
import importlib
import sys
from pathlib import Path

from optimization.adopt.adoption import adopt, doubt
from optimization.adopt.flags import add_adoption_arguments, read_adoption
from training.options import add_source_arguments
from training.registry import Registry
from training.train import CANDIDATE


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="optimization.adopt", description="Register a model that was not trained here, as a teacher to build from."
    )
    add_adoption_arguments(parser)
    add_source_arguments(parser)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        request = read_adoption(arguments)
        if request is None:
            raise ValueError("say which model: --from-torch MODULE:CALLABLE --weights FILE, or --from-onnx FILE")
        version, scores = adopt(request, Registry(), arguments.threads)
    except ValueError as error:
        sys.exit(f"optimization.adopt: {error}")
    warning = doubt(scores)
    if warning:
        print(f"optimization.adopt: look again: {warning}", file=sys.stderr)
    low, high = scores.interval
    print(f"accuracy {scores.accuracy:.2%} ({low:.2%} to {high:.2%}) on {scores.rows:,} rows of the gate split")
    print(
        f"registered {version.reference} (alias {CANDIDATE}); "
        f"next: python -m optimization.build {version.name}@{CANDIDATE}"
    )


if __name__ == "__main__":
    # Run the imported module's main: a Task built by training.tasks is of its class, not of __main__'s.
    importlib.import_module("optimization.adopt.__main__").main()
