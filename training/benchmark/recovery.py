"""`python -m training.benchmark.recovery`: kill a training in every way it can be killed, and see what it costs.

Each scenario trains the digits on two Ray workers (or on those of torchrun), is disturbed, and has to end with the
very weights of an undisturbed training and with each row read once an epoch, both of which are checked.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.benchmark.machine import command_line, describe, machine, write_report
from training.checkpoint.sample_log import surviving_rows
from training.cluster import keep_to_loopback
from training.task import Source, load_task

EPOCHS, WORKERS = 3, 2
WORKER_KILLS = 5
PAUSE_S = 0.05
# A checkpoint as often as the steps allow; what is redone then is what was not yet written.
OFTEN = ["--checkpoint-every-s", "0.2", "--pause-s", str(PAUSE_S)]
WITHIN_S = 240.0


@dataclass(frozen=True)
class Outcome:
    """`identical`: the weights are to the bit those of the undisturbed training; None where none of its kind exists."""

    scenario: str
    identical: bool | None
    every_row_once: bool
    steps_redone: list[int]
    seconds_to_next_step: list[float]


class Runs:
    """Starts trainings on one local Ray cluster whose nodes can be lost, or under torchrun."""

    def __init__(self, folder: Path) -> None:
        keep_to_loopback()
        from ray.cluster_utils import Cluster

        self.folder = folder
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2, "node_ip_address": "127.0.0.1", "include_dashboard": True,
                "dashboard_host": "127.0.0.1", "dashboard_port": _free_port(), "object_store_memory": 100 * 2**20,
            },
        )  # fmt: skip
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": self._cluster.address}
        self.rows = len(load_task("digits", Source()).splits["train"])

    def close(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]

    def add_node(self) -> Any:
        return self._cluster.add_node(
            num_cpus=1, resources={"spare": 1}, node_ip_address="127.0.0.1", object_store_memory=100 * 2**20
        )

    def lose_node(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def start(self, name: str, *options: str, torchrun: bool = False) -> "subprocess.Popen[str]":
        out = self.folder / name
        out.mkdir(exist_ok=True)
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}", "-m"] if torchrun else []
        how = [] if torchrun else ["--how=ray", f"--workers={WORKERS}"]
        command = [
            *(sys.executable, "-m", *launcher, "training.benchmark.trainee", str(out)),
            *(f"--epochs={EPOCHS}", *how, *options),
        ]
        with (out / "log").open("a") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, text=True)

    def finish(self, name: str, *options: str, torchrun: bool = False) -> None:
        self.wait_for_end(name, self.start(name, *options, torchrun=torchrun))

    def wait_for_end(self, name: str, process: "subprocess.Popen[str]") -> None:
        """Raises RuntimeError with the end of what it said where it does not end well."""
        if process.wait(timeout=WITHIN_S):
            said = (self.folder / name / "log").read_text()
            raise RuntimeError(f"{name} ended with {process.returncode}:\n{said[-3000:]}")

    def wait_for_steps(self, name: str, steps: int) -> None:
        """Until the newest attempt has done so many steps, or more."""
        from training.checkpoint.journal import read_mark

        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            marks = [read_mark(path) for path in (self.folder / name).glob("storage/*/mark")]
            if any(mark and mark[0] >= steps for mark in marks):
                return
            time.sleep(0.02)
        raise RuntimeError(f"{name} did not come to step {steps} within {WITHIN_S:.0f} s")

    def outcome(self, name: str, scenario: str, undisturbed: str | None) -> Outcome:
        from safetensors.numpy import load_file

        out = self.folder / name
        (samples,) = out.glob("storage/*/samples")
        rows = surviving_rows(samples)
        once = list(rows) == list(range(1, EPOCHS + 1)) and all(
            np.array_equal(np.sort(ids), np.arange(self.rows)) for ids in rows.values()
        )
        identical = None
        if undisturbed is not None:
            ours, theirs = (load_file(self.folder / one / "weights.safetensors") for one in (name, undisturbed))
            identical = ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)
        recoveries = json.loads((out / "recoveries.json").read_text())
        if not recoveries:
            raise RuntimeError(f"{scenario}: {name} was not disturbed, it went through in one go")
        return Outcome(
            scenario, identical, once,
            [one["steps_redone"] for one in recoveries],
            [one["seconds_to_next_step"] for one in recoveries if one["seconds_to_next_step"] is not None],
        )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_worker(runs: Runs, seed: int) -> Outcome:
    drawn = random.Random(seed)
    rank, step = drawn.randrange(WORKERS), drawn.randrange(3, 15 * EPOCHS)
    name = f"worker-{seed}"
    runs.finish(name, *OFTEN, f"--kill={rank}:{step}")
    return runs.outcome(name, f"SIGKILL of worker {rank} in step {step}", "undisturbed")


def kill_driver(runs: Runs) -> Outcome:
    driver = runs.start("driver", *OFTEN)
    runs.wait_for_steps("driver", 20)
    driver.kill()
    driver.wait()
    runs.finish("driver", *OFTEN)
    return runs.outcome("driver", "SIGKILL of the driver, the same command again", "undisturbed")


def ask_driver(runs: Runs) -> Outcome:
    driver = runs.start("asked", *OFTEN)
    runs.wait_for_steps("asked", 20)
    driver.send_signal(signal.SIGTERM)
    driver.wait(timeout=WITHIN_S)
    runs.finish("asked", *OFTEN)
    return runs.outcome("asked", "SIGTERM (preemption), the same command again", "undisturbed")


def lose_node(runs: Runs) -> Outcome:
    """Both workers run on nodes that are not the head's; one goes, another comes."""
    nodes = [runs.add_node(), runs.add_node()]
    options = [*OFTEN, "--spare-nodes"]
    driver = runs.start("node", *options)
    runs.wait_for_steps("node", 20)
    runs.lose_node(nodes[0])
    nodes[0] = runs.add_node()
    try:
        runs.wait_for_end("node", driver)
    finally:
        driver.kill()
        for node in nodes:
            runs.lose_node(node)
    return runs.outcome("node", "a node lost, another one added", "undisturbed")


def shrink_and_grow(runs: Runs) -> Outcome:
    """Two workers, one after a node was lost, two again when there is room: one command, nobody at hand."""
    nodes = [runs.add_node(), runs.add_node()]
    driver = runs.start("elastic", *OFTEN, "--spare-nodes", "--min-workers=1", "--pause-s=1")
    runs.wait_for_steps("elastic", 8)
    runs.lose_node(nodes[0])
    runs.wait_for_steps("elastic", 12)  # by the one that is left; the rest is time for Ray to notice the new node
    nodes[0] = runs.add_node()
    try:
        runs.wait_for_end("elastic", driver)
    finally:
        driver.kill()
        for node in nodes:
            runs.lose_node(node)
    return runs.outcome("elastic", "two workers, one, two (elastic, a node lost and added)", None)


def kill_under_torchrun(runs: Runs) -> Outcome:
    first = runs.start("torchrun", *OFTEN, "--kill=1:17", torchrun=True)
    first.wait(timeout=WITHIN_S)
    runs.finish("torchrun", *OFTEN, torchrun=True)
    return runs.outcome("torchrun", "SIGKILL of a worker of torchrun, the same command again", "undisturbed-torchrun")


SCENARIOS: dict[str, Callable[[Runs], Outcome]] = {
    **{f"worker-{seed}": lambda runs, seed=seed: kill_worker(runs, seed) for seed in range(WORKER_KILLS)},  # type: ignore[misc]
    "driver": kill_driver,
    "asked": ask_driver,
    "node": lose_node,
    "elastic": shrink_and_grow,
    "torchrun": kill_under_torchrun,
}


def run(folder: Path, names: list[str]) -> list[Outcome]:
    runs = Runs(folder)
    try:
        runs.finish("undisturbed", *OFTEN)
        if "torchrun" in names:
            runs.finish("undisturbed-torchrun", *OFTEN, torchrun=True)
        outcomes = []
        for name in names:
            outcomes.append(SCENARIOS[name](runs))
            print(_row(outcomes[-1]), flush=True)
        return outcomes
    finally:
        runs.close()


def report(outcomes: list[Outcome]) -> str:
    steps = [count for one in outcomes for count in one.steps_redone]
    seconds = [value for one in outcomes for value in one.seconds_to_next_step]
    return "\n".join(
        [
            "# What a killed training loses",
            "",
            f"The digits, {EPOCHS} epochs, {WORKERS} workers of one thread, steps slowed to {PAUSE_S:g} s and more, a "
            f"checkpoint every 0.2 s; {describe(machine())}.",
            "",
            "| disturbed by | weights as undisturbed, to the bit | every row once an epoch | steps redone "
            "| from the last step before to the first after |",
            "|---|---|---|---|---|",
            *map(_row, outcomes),
            "",
            f"Median of {len(steps)} recoveries: {statistics.median(steps):g} steps redone, "
            f"{statistics.median(seconds):.1f} s from step to step. The time is Ray's and Python's: new processes that "
            "import PyTorch, not the state, which is read in milliseconds.",
            "",
            "With another number of workers sums are taken in another order, so bits differ; that each row is read "
            "once an epoch is what can be equal, and is.",
            "",
            f"Measured by `{command_line('training.benchmark.recovery')}`.",
            "",
        ]
    )


def _row(outcome: Outcome) -> str:
    identical = "other number of workers" if outcome.identical is None else _yes(outcome.identical)
    redone = ", ".join(map(str, outcome.steps_redone))
    seconds = ", ".join(f"{value:.1f} s" for value in outcome.seconds_to_next_step)
    return f"| {outcome.scenario} | {identical} | {_yes(outcome.every_row_once)} | {redone} | {seconds} |"


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.benchmark.recovery")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--out", type=Path, help="a folder for recovery.md and recovery.json")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]!r}: choose from {', '.join(SCENARIOS)}")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder), arguments.scenarios or list(SCENARIOS))
    page = report(outcomes)
    print(page)
    if arguments.out:
        write_report(arguments.out, "recovery", page, {"outcomes": [asdict(one) for one in outcomes]})
    if not all(one.every_row_once and one.identical is not False for one in outcomes):
        sys.exit("a training did not come back as it was")


if __name__ == "__main__":
    main()
