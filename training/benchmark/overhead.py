"""`python -m training.benchmark.overhead`: what Ray Train and checkpoints cost the same fit(), measured in turns.

Two trainings of one recipe live on the machine at once and train in turns, block by block: under plain Python and on
Ray Train with one worker, under torchrun and on Ray Train with two. Each block of the one is compared with the block
of the other beside it. Checkpoints: one training keeps its state after every other epoch, and epochs are compared.
"""

import argparse
import dataclasses
import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from training.benchmark.machine import describe, machine, write_report
from training.benchmark.pace import Turns, block_rates
from training.benchmark.statistics import Ratio, paired_ratio, spread
from training.launch.job import Compute, TrainJob
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.recipe import Recipe, override
from training.recipes import load_recipe
from training.task import Source

WANTED, AIMED = 0.95, 0.975
HOW = {1: ("plain Python", "Ray Train"), 2: ("torchrun", "Ray Train")}


@dataclasses.dataclass(frozen=True)
class InTurns:
    """Makes the watcher that lets the first worker of a training wait for its turn."""

    folder: Path
    me: int
    block_steps: int
    blocks: int

    def __call__(self, worker: Worker) -> Sequence[Watcher]:
        return [Turns(self.folder, self.me, 2, self.block_steps, self.blocks)] if worker.rank == 0 else []


def participate(arguments: argparse.Namespace) -> None:
    """Train in turns with the other participant, as `arguments.me` says: 0 without Ray, 1 with."""
    from training.launch.job import Interrupted
    from training.launch.run import run_training

    job = TrainJob(
        _recipe(arguments),
        Source(arguments.data_dir),
        "",
        "",
        identity=f"overhead-{arguments.me}",
        make_watchers=InTurns(arguments.out, arguments.me, arguments.block_steps, arguments.blocks),
    )
    compute = Compute(
        workers=arguments.workers if arguments.me else 1,
        local=not arguments.me,
        storage=str(arguments.out / "storage"),
        checkpoint_every_s=1e9,
        checkpoint_every_epochs=10**9,
    )
    try:
        run_training(job, compute)
    except Interrupted:
        return  # after the last block


def _recipe(arguments: argparse.Namespace) -> Recipe:
    # More epochs than the blocks can take: it is the last block that ends the training.
    return dataclasses.replace(override(load_recipe(arguments.recipe), arguments.set), epochs=100_000)


def measure(arguments: argparse.Namespace, workers: int) -> tuple[list[float], list[float]]:
    """Samples/s of each block without Ray and with it."""
    with tempfile.TemporaryDirectory() as folder:
        own = [sys.executable, "-m"]
        alone = (
            own
            if workers == 1
            else [*own, "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", "-m"]
        )
        options = [
            "training.benchmark.overhead", arguments.recipe, f"--out={folder}", f"--workers={workers}",
            f"--block-steps={arguments.block_steps}", f"--blocks={arguments.blocks}",
            *(f"--set={setting}" for setting in arguments.set),
            *([f"--data-dir={arguments.data_dir}"] if arguments.data_dir else []),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ADDRESS", None)
        processes = [
            subprocess.Popen([*command, *options, f"--me={me}"], env=environment, start_new_session=True)
            for me, command in enumerate((alone, own))
        ]
        try:
            for process in processes:
                if process.wait(timeout=arguments.timeout_s):
                    raise RuntimeError(f"a participant ended with {process.returncode}: {process.args!r}")
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return block_rates(Path(folder), 0), block_rates(Path(folder), 1)


def report(results: dict[int, tuple[list[float], list[float]]], arguments: argparse.Namespace) -> str:
    """The Markdown page of what was measured."""
    lines = [
        "# What Ray Train costs the same `fit()`",
        "",
        f"Recipe `{arguments.recipe}`{''.join(f' with {setting}' for setting in arguments.set)}; "
        f"{describe(machine())}. Blocks of {arguments.block_steps} steps in turns, one thread a worker, the first "
        "block of each not counted.",
        "",
        "| workers | without Ray | samples/s (quartiles) | Ray Train, samples/s | ratio (95 % interval) | pairs |",
        "|---|---|---|---|---|---|",
    ]
    for workers, (alone, with_ray) in results.items():
        one, other, ratio = spread(alone), spread(with_ray), paired_ratio(with_ray, alone)
        lines.append(
            f"| {workers} | {HOW[workers][0]} | {one} | {other} "
            f"| {ratio.mean:.3f} ({ratio.low:.3f}-{ratio.high:.3f}) | {ratio.n} |"
        )
    lines += ["", *(f"- {workers} worker(s): {_judge(paired_ratio(b, a))}" for workers, (a, b) in results.items()), ""]
    command = " ".join(["python -m training.benchmark.overhead", *map(str, sys.argv[1:])])
    return "\n".join([*lines, f"Measured by `{command}`.", ""])


def _judge(ratio: Ratio) -> str:
    verdict = "met" if ratio.low >= WANTED else "missed"
    aim = "met" if ratio.low >= AIMED else "missed"
    return f"lower bound {ratio.low:.3f}; {WANTED} wanted: {verdict}, {AIMED} aimed at: {aim}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.benchmark.overhead")
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--data-dir", type=lambda text: Path(text).resolve())
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), default=Path("loadtests/reports/overhead"))
    parser.add_argument("--workers", type=int, choices=[1, 2], action="append")
    parser.add_argument("--block-steps", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--timeout-s", type=float, default=900.0)
    parser.add_argument("--me", type=int, choices=[0, 1], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.me is not None:
        arguments.workers = arguments.workers[0]
        participate(arguments)
        return
    results = {workers: measure(arguments, workers) for workers in arguments.workers or [1, 2]}
    page = report(results, arguments)
    write_report(arguments.out, "overhead", page, {"samples_per_s": results})
    print(page)


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("training.benchmark.overhead").main()
