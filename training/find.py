"""`python -m training.find RECIPE --lr` or `--batch-size`: what to set, found by short trials that leave nothing."""

import argparse
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.encoding import TextEncoding
from training.options import add_source_arguments, read_source
from training.recipe import Recipe, override
from training.recipes import load_recipe
from training.task import Task, load_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.loop.find import Batch

MOST_ROWS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="training.find", description="Find a learning rate or a micro-batch by short trials. Nothing is kept."
    )
    parser.add_argument("recipe", help="a named recipe (training/recipes.py) or module:callable")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--lr", action="store_true", help="the rate at which the loss falls most steeply")
    wanted.add_argument("--batch-size", action="store_true", help="on a GPU what fits, on a CPU what is fast")
    add_source_arguments(parser)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. optimizer.name=sgd")
    parser.add_argument("--init-from", type=Path, help="a file of weights, or an Artifact, to begin with")
    parser.add_argument("--steps", type=int, default=100, help="of the search for a learning rate (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw what was tried")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        recipe = override(load_recipe(arguments.recipe), arguments.set)
        task = load_task(recipe.task, read_source(arguments, arguments.data_dir), recipe.task_params)
        import torch

        torch.set_num_threads(arguments.threads)
        search = Search(recipe, task, arguments.init_from)
        figure = search.learning_rate(arguments.steps) if arguments.lr else search.micro_batch()
        search.close()
    except ValueError as error:
        sys.exit(f"training.find: {error}")
    if arguments.plot:
        figure.savefig(arguments.plot)
        print(f"plot: {arguments.plot}")


class Search:
    """A recipe's model, its data and its loss, on the GPU where there is one. Each search prints what to set."""

    def __init__(self, recipe: Recipe, task: Task, init_from: Path | None = None) -> None:
        import torch

        from training.loop.batches import Batches
        from training.loop.losses import make_loss
        from training.loop.worker import Worker
        from training.models.pretrained import load_pretrained
        from training.models.untrained import untrained
        from training.models.weights import load_weights

        self._recipe, self._train, self._encoding = recipe, task.splits["train"], task.encoding
        self._worker = Worker(device="cuda" if torch.cuda.is_available() else "cpu")
        self._batches = Batches(recipe, task.encoding, self._train, self._worker)
        self._module = untrained(recipe, task.encoding)
        load_pretrained(self._module, recipe.architecture)
        if init_from:
            load_weights(self._module, init_from)
        self._module.to(self._worker.device)
        if not isinstance(task.encoding, TextEncoding):
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._loss = make_loss(recipe, self._train.labels, len(task.encoding.labels))

    def close(self) -> None:
        self._batches.close()

    def learning_rate(self, steps: int) -> "Figure":
        from training.loop.find import find_learning_rate
        from training.loop.find_plot import rate_figure

        epochs = (self._batches.epoch(epoch) for epoch in itertools.count(1))
        read = map(self._batches.to_device, itertools.chain.from_iterable(epochs))
        batches = ((batch.inputs, batch.targets) for batch in read)
        curve = find_learning_rate(self._recipe, self._module, batches, self._loss, steps=steps)
        end = "diverged" if curve.diverged else "ended"
        lowest = curve.rates[int(np.argmin(curve.smoothed))]
        print(f"the loss fell most steeply at {curve.suggestion:.2g}, was lowest at {lowest:.2g}, {end} at "
              f"{curve.rates[-1]:.2g}\n--set optimizer.lr={curve.suggestion:.2g}")  # fmt: skip
        return rate_figure(curve)

    def micro_batch(self) -> "Figure":
        from training.loop.find import find_micro_batch
        from training.loop.find_plot import batch_figure

        # The longest texts: what fits with them fits with all.
        ids = np.arange(len(self._train))
        if isinstance(self._encoding, TextEncoding):
            ids = np.argsort(-(self._train.inputs != self._encoding.pad_id).sum(axis=1), kind="stable")
        most = min(MOST_ROWS, len(ids))
        curve = find_micro_batch(self._recipe, self._module, lambda rows: self._rows(ids[:rows]), self._loss, most)
        for rows, speed in zip(curve.rows, curve.samples_per_s, strict=True):
            print(f"{rows:>6} rows  {speed:>10,.0f} samples/s")
        if curve.suggestion >= self._recipe.batch_size:
            print(f"a whole batch of {self._recipe.batch_size} rows goes at once: micro_batch may stay 0")
        print(f"--set micro_batch={curve.suggestion}")
        return batch_figure(curve)

    def _rows(self, ids_B: NDArray[np.int64]) -> "Batch":
        inputs, targets = self._batches.rows(ids_B, epoch=1)
        return inputs.to(self._worker.device), targets.to(self._worker.device)


if __name__ == "__main__":
    main()
