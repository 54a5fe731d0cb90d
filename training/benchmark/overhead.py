"""`python -m training.benchmark.overhead`: what Ray Train costs the same fit(), measured in turns.

Two trainings of one recipe live on the machine at once and train in turns, block by block: under plain Python and on
Ray Train with one worker, under torchrun and on Ray Train with two. Each block of the one is compared with the block
of the other beside it. Ray's own processes live through the blocks of both; what they take of the processors meanwhile
is measured too.
"""

import argparse
import contextlib
import dataclasses
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from training.benchmark.machine import command_line, describe, machine, write_report
from training.benchmark.pace import Turns, block_count, block_rates
from training.benchmark.statistics import Ratio, paired_ratio, spread
from training.launch.job import GIVES_WAY, Compute, TrainJob
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


@dataclasses.dataclass(frozen=True)
class Measured:
    """Samples/s of each block without Ray and with it; `ray_cpus` is how much of a processor Ray's own processes took
    meanwhile, through the blocks of both.
    """

    alone: list[float]
    with_ray: list[float]
    ray_cpus: float


def measure(arguments: argparse.Namespace, workers: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        own = [sys.executable, "-m"]
        # Ray's workers give way to what serves; without Ray they shall find the machine as those do.
        polite = ["nice", "-n", str(GIVES_WAY)]
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
            for me, command in enumerate(([*polite, *alone], own))
        ]
        try:
            ray_cpus = _wait(processes, Path(folder), arguments.timeout_s)
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return Measured(block_rates(Path(folder), 0), block_rates(Path(folder), 1), ray_cpus)


def _wait(processes: "Sequence[subprocess.Popen[bytes]]", folder: Path, timeout_s: float) -> float:
    """Until all have ended well; how much of a processor Ray's own processes took since the first counted block."""
    seen: list[tuple[float, dict[int, float]]] = []
    deadline = time.monotonic() + timeout_s
    while any(process.poll() is None for process in processes):
        for process in processes:
            if process.returncode:
                raise RuntimeError(f"a participant ended with {process.returncode}: {process.args!r}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the blocks took more than {timeout_s:.0f} s: fewer --blocks or --block-steps")
        if block_count(folder, 1):
            seen.append((time.monotonic(), _ray_cpu_s(processes[1].pid)))
        time.sleep(0.5)
    before, after = seen[0][1], {pid: seconds for _, each in seen for pid, seconds in each.items()}
    spent_s = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
    return spent_s / max(seen[-1][0] - seen[0][0], 1e-9)


def _ray_cpu_s(driver: int) -> dict[int, float]:
    """Processor seconds of each process that the driver has started, but for the workers that train."""
    import psutil

    found: dict[int, float] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "RayTrainWorker" not in " ".join(process.cmdline()):
                    found[process.pid] = sum(process.cpu_times()[:2])
    return found


def report(results: dict[int, Measured], arguments: argparse.Namespace) -> str:
    """The Markdown page of what was measured."""
    lines = [
        "# What Ray Train costs the same `fit()`",
        "",
        f"Recipe `{arguments.recipe}`{''.join(f' with {setting}' for setting in arguments.set)}; "
        f"{describe(machine())}. Blocks of {arguments.block_steps} steps in turns, one thread a worker, the first "
        "block of each not counted.",
        "",
        "| workers | without Ray | samples/s (quartiles) | Ray Train, samples/s | ratio (95 % interval) | pairs "
        "| Ray's own processes |",
        "|---|---|---|---|---|---|---|",
    ]
    for workers, measured in results.items():
        one, other = spread(measured.alone), spread(measured.with_ray)
        ratio = paired_ratio(measured.with_ray, measured.alone)
        lines.append(
            f"| {workers} | {HOW[workers][0]} | {one} | {other} "
            f"| {ratio.mean:.3f} ({ratio.low:.3f}-{ratio.high:.3f}) | {ratio.n} "
            f"| {measured.ray_cpus:.0%} of a processor |"
        )
    judged = {workers: _judge(paired_ratio(one.with_ray, one.alone)) for workers, one in results.items()}
    lines += ["", *(f"- {workers} worker(s): {verdict}" for workers, verdict in judged.items()), ""]
    lines += [
        "Ray's own processes (controller, raylet, dashboard) run through the blocks of both: what they take is not in "
        "the ratio; the last column is all of it.",
        "",
    ]
    command = command_line("training.benchmark.overhead")
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
    write_report(
        arguments.out,
        "overhead",
        page,
        {"measured": {workers: dataclasses.asdict(one) for workers, one in results.items()}},
    )
    print(page)


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("training.benchmark.overhead").main()
