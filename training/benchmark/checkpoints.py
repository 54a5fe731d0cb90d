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

from training.benchmark.machine import command_line, describe, machine, write_report
from training.benchmark.statistics import paired_ratio, spread
from training.checkpoint.folder import Folder
from training.checkpoint.keeper import Keeper
from training.checkpoint.saver import AsyncSaver
from training.checkpoint.store import STATE_FILE, CheckpointStore
from training.loop.batches import Batch
from training.loop.fit import fit
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.models.architecture import build
from training.observe.clock import StepClock
from training.options import add_source_arguments, read_source
from training.recipe import Recipe, override
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


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of the epochs whose predecessor was kept, and of those beside them; one checkpoint's size."""

    after_kept_s: list[float]
    beside_s: list[float]
    size_bytes: int


def measure(recipe: Recipe, source: Source, pairs: int) -> Measured:
    recipe = dataclasses.replace(recipe, epochs=2 * pairs + 2)
    task = load_task(recipe.task, source, recipe.task_params)
    times = EpochTimes()
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Folder(folder))
        keeper = Keeper(AsyncSaver(store, store.begin_attempt(), 1), every_s=1e9, every_epochs=2)
        module = build(recipe.architecture, task.encoding)
        # The times are taken before the keeper acts, so that an epoch's time has the keeping of the one before it.
        fit(recipe, module, task.encoding, task.splits["train"], task.splits["val"], watchers=[times, keeper])
        newest = store.newest()
        assert newest is not None
        size_bytes = (Path(folder) / newest.checkpoint.name / STATE_FILE).stat().st_size
    # Epoch 1 is a warm-up. Epochs are kept after 2, 4, ...: 3, 5, ... run while that is written.
    after, beside = times.seconds[2::2][:pairs], times.seconds[1:-1:2][:pairs]
    return Measured(after, beside, size_bytes)


def report(measured: Measured, arguments: argparse.Namespace) -> str:
    ratio, plain = paired_ratio(measured.after_kept_s, measured.beside_s), spread(measured.beside_s)
    verdict = "met" if ratio.mean - 1 < MOST else "missed"
    command = command_line("training.benchmark.checkpoints")
    return "\n".join(
        [
            "# What a checkpoint after every epoch costs",
            "",
            f"Recipe `{arguments.recipe}`{''.join(f' with {setting}' for setting in arguments.set)}, "
            f"{arguments.threads} thread(s); {describe(machine())}. Epochs while the state of the one before is "
            "written against those beside them, the first one not counted.",
            "",
            "| an epoch, s (quartiles) | a checkpoint, MB | longer by (95 % interval) | pairs |",
            "|---|---|---|---|",
            f"| {plain.median:.2f} ({plain.low:.2f}-{plain.high:.2f}) | {measured.size_bytes / 1e6:.2f} | "
            f"{ratio.mean - 1:+.2%} ({ratio.low - 1:+.2%} to {ratio.high - 1:+.2%}) | {ratio.n} |",
            "",
            f"Under {MOST:.0%} wanted: {verdict}.",
            "",
            f"Measured by `{command}`.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.benchmark.checkpoints")
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=20, help="of epochs")
    parser.add_argument("--out", type=Path, help="a folder for checkpoints.md and checkpoints.json")
    add_source_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = override(load_recipe(arguments.recipe), arguments.set)
    measured = measure(recipe, read_source(arguments, arguments.data_dir), arguments.pairs)
    page = report(measured, arguments)
    print(page)
    if arguments.out:
        write_report(arguments.out, "checkpoints", page, dataclasses.asdict(measured))


if __name__ == "__main__":
    main()
