"""`python -m training.benchmark.checkpoints RECIPE`: what keeping the state after every epoch costs.

One training keeps its state after every other epoch; an epoch whose predecessor was kept (it is being written
meanwhile) is compared with the one beside it, whose was not.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import torch

from training.benchmark.machine import describe, machine
from training.benchmark.statistics import paired_ratio, spread
from training.checkpoint.folder import Folder
from training.checkpoint.keeper import Keeper
from training.checkpoint.saver import AsyncSaver
from training.checkpoint.store import CheckpointStore
from training.loop.batches import Batch
from training.loop.fit import fit
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.models.architecture import build
from training.observe.clock import StepClock
from training.recipe import override
from training.recipes import load_recipe
from training.task import Source, load_task

MOST = 0.02


class EpochTimes(Watcher):
    """Seconds from the end of one epoch, before it is kept, to the end of the next, validation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def begin(self, training: Training, clock: StepClock) -> None:
        self._since = time.perf_counter()

    def step(self, training: Training, batch: Batch) -> None:
        return

    def epoch(self, training: Training, record: EpochRecord) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self._since = now


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.benchmark.checkpoints")
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--pairs", type=int, default=20, help="of epochs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = override(load_recipe(arguments.recipe), arguments.set)
    recipe = dataclasses.replace(recipe, epochs=2 * arguments.pairs + 2)
    task = load_task(recipe.task, Source(arguments.data_dir), recipe.task_params)
    times = EpochTimes()
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Folder(folder))
        keeper = Keeper(AsyncSaver(store, store.begin_attempt(), 1), every_s=1e9, every_epochs=2)
        module = build(recipe.architecture, task.encoding)
        # The times are taken before the keeper acts, so that an epoch's time has the keeping of the one before it.
        fit(recipe, module, task.encoding, task.splits["train"], task.splits["val"], watchers=[times, keeper])
        size_bytes = sum(path.stat().st_size for path in Path(folder).rglob("state.pt")) // 2
    # Epoch 1 is a warm-up. Epochs are kept after 2, 4, ...: 3, 5, ... run while that is written.
    after, beside = times.seconds[2::2], times.seconds[1:-1:2]
    pairs = min(len(after), len(beside))
    ratio, plain = paired_ratio(after[:pairs], beside[:pairs]), spread(beside)
    print(
        f"recipe {arguments.recipe}, {describe(machine())}\n"
        f"an epoch takes {plain.median:.3f} s ({plain.low:.3f}-{plain.high:.3f}, n={plain.n}); a checkpoint of "
        f"{size_bytes / 1e6:.2f} MB after every epoch makes it {ratio.mean - 1:+.2%} longer "
        f"({ratio.low - 1:+.2%} to {ratio.high - 1:+.2%}, {ratio.n} pairs; at most {MOST:.0%} wanted)"
    )


if __name__ == "__main__":
    main()
